"""Where weight decay takes a scale-invariant layer: its norm, its rotation, and how long it takes to get there.

A gradient of size ‖g̃‖ / ‖W‖ orthogonal to W makes ‖W‖ grow, decay makes it shrink. What one gradient does goes on for
some steps: with gains h_0, h_1, … (1, α, α², … under momentum α), H = Σ h and S = Σ h². Valid where gradients of
training batches are mostly noise and the rate is constant. Relaxation has to take far longer than the optimizer's
memory. Sources: Li, Lyu, Arora, *Reconciling modern deep learning with traditional optimization analyses*, NeurIPS
2020; Kosson, Messmer, Jaggi, *Rotational equilibrium*, ICML 2024. Momentum in LARS and the gains of Nesterov's form
follow in the same way.
"""

import math
from dataclasses import dataclass

from fromage_cli.theory.growth import orthogonal_growth


@dataclass(frozen=True)
class Gains:
    """What one gradient does to the weights over the steps that follow, in units of the rate."""

    total: float = 1.0
    """H = Σ h."""
    squared: float = 1.0
    """S = Σ h²."""
    persistence: float = 0.0
    """a, where gains fall as a^k."""


def momentum_gains(momentum: float, dampening: float = 0.0, nesterov: bool = False) -> Gains:
    """SGD and LARS as in torch: v ← αv + (1−d)g, the step along v, or with nesterov along g + αv."""
    factor = 1.0 if not momentum else 1.0 - dampening
    if nesterov and momentum:
        first = 1.0 + factor * momentum
        tail = factor * momentum**2
        return Gains(first + tail / (1.0 - momentum), first**2 + tail**2 / (1.0 - momentum**2), momentum)
    return Gains(factor / (1.0 - momentum), factor**2 / (1.0 - momentum**2), momentum)


@dataclass(frozen=True)
class Equilibrium:
    """Where a layer under constant settings ends, and how it gets there.

    ‖W‖^power relaxes exponentially to its end; the effective rate is η / ‖W‖^rate_power.
    """

    rotation: float
    """Radians a step, once there."""
    diffusion: float
    """cos between weights Δt steps apart is exp(−diffusion Δt), once there and for long Δt."""
    relaxation: float | None
    """Steps τ in which ‖W‖^power comes nearer by a factor e; None where there is no equilibrium."""
    power: int
    rate_power: int
    norm_exponent: float
    """The equilibrium norm goes as η^this."""
    relaxation_exponent: float
    """τ goes as η^−this."""
    persistence: float
    """a, where the correlation of steps k apart falls as a^k."""

    def rotation_over(self, steps: int, diffusion: float | None = None) -> float:
        """The angle between weights so many steps apart, radians, once there: cos = exp(−diffusion k).

        k = Δt − c (1 − a^Δt) / (1 − a) with c = 1 − rotation² / (2 diffusion): steps that follow each other go the
        same way for a while. `diffusion`: its mean over the steps, where the rate has changed.
        """
        excess = 1.0 - self.rotation**2 / (2.0 * self.diffusion)
        alike = (1.0 - self.persistence**steps) / (1.0 - self.persistence)
        decorrelation = (self.diffusion if diffusion is None else diffusion) * (steps - excess * alike)
        # the arc cosine of exp(−x), with all its digits where x is small
        return math.atan2(math.sqrt(-math.expm1(-2.0 * decorrelation)), math.exp(-decorrelation))


def sgd_equilibrium(rate: float, decay: float, gains: Gains) -> Equilibrium:
    """SGD whose decay is part of the gradient: ‖W‖⁴ relaxes in 1/(4ηλH), rotation √(2ηλ S/H)."""
    loss = rate * decay * gains.total
    return Equilibrium(
        math.sqrt(2.0 * rate * decay * gains.squared / gains.total),
        loss,
        0.25 / loss,
        4,
        2,
        0.25,
        1.0,
        gains.persistence,
    )


def sgd_norm(rate: float, decay: float, gains: Gains, squared_gradient: float) -> float:
    """(ηH E‖g̃‖² / 2λ)^(1/4), E‖g̃‖² = ‖W‖² E‖g‖² over gradients of training batches."""
    return float((rate * gains.total * squared_gradient / (2.0 * decay)) ** 0.25)


def adamw_equilibrium(rate: float, decay: float, betas: tuple[float, float]) -> Equilibrium:
    """AdamW: ‖W‖² relaxes in 1/(2ηλ), rotation √(2ηλ(1−β₁)/(1+β₁))."""
    loss = rate * decay
    rotation = math.sqrt(2.0 * loss * (1.0 - betas[0]) / (1.0 + betas[0]))
    return Equilibrium(rotation, loss, 0.5 / loss, 2, 1, 0.5, 1.0, betas[0])


def adamw_norm(rate: float, decay: float, elements: int) -> float:
    """√(η / 2λ) for the root mean square weight."""
    return math.sqrt(rate / (2.0 * decay) * elements)


def lion_persistence(betas: tuple[float, float]) -> float:
    """V = 1 + 2 Σ (2/π) asin ρ_k: what the signs of Lion's steps add up to over what they would if each were fresh.

    For Gaussian noise the interpolated momentum k steps apart correlates by ρ_k = ρ₁ β₂^(k−1). There ρ₁ = ((1−β₁) β₁
    (1−β₂) + β₁² β₂ (1−β₂)/(1+β₂)) / ((1−β₁)² + β₁² (1−β₂)/(1+β₂)). Source: Van Vleck's arcsine law.
    """
    first, second = betas
    kept = first**2 * (1.0 - second) / (1.0 + second)
    likeness = ((1.0 - first) * first * (1.0 - second) + kept * second) / ((1.0 - first) ** 2 + kept)
    total = 0.0
    while likeness > 1e-4:
        total += math.asin(min(likeness, 1.0))
        likeness *= second
    return 1.0 + 4.0 / math.pi * (total + likeness / (1.0 - second))


def lion_equilibrium(rate: float, decay: float, betas: tuple[float, float]) -> Equilibrium:
    """Lion: ‖W‖² relaxes in 1/(2ηλ), rotation √(2ηλ / V)."""
    loss = rate * decay
    rotation = math.sqrt(2.0 * loss / lion_persistence(betas))
    return Equilibrium(rotation, loss, 0.5 / loss, 2, 1, 0.5, 1.0, betas[1])


def lion_norm(rate: float, decay: float, betas: tuple[float, float], elements: int) -> float:
    """√(η V elements / 2λ): every entry of a step is ±η.

    For Gaussian noise. In two layers of a small network, whose gradients were not, norms came out 10 to 30 % larger.
    """
    return math.sqrt(rate * lion_persistence(betas) * elements / (2.0 * decay))


def lars_equilibrium(step: float, gains: Gains) -> Equilibrium:
    """LARS with relative step η' and decay in its gradient: 1/‖W‖² relaxes in 1/(η'H)², rotation η'√S."""
    return _relative(step, gains, relaxes=True)


def lars_norm(step: float, decay: float, gains: Gains, squared_gradient: float) -> float:
    """√(η'H ‖g̃‖ / 2λ), ‖g̃‖ = ‖W‖ ‖g‖."""
    return math.sqrt(step * gains.total * math.sqrt(squared_gradient) / (2.0 * decay))


def relative_rotation(step: float, gains: Gains) -> Equilibrium:
    """A relative step η' whose decay, if any, does not act on the angle: rotation η'√S, and no equilibrium norm."""
    return _relative(step, gains, relaxes=False)


def _relative(step: float, gains: Gains, *, relaxes: bool) -> Equilibrium:
    diffusion = (step * gains.total) ** 2 / 2.0
    rotation, relaxation = step * math.sqrt(gains.squared), 0.5 / diffusion if relaxes else None
    return Equilibrium(rotation, diffusion, relaxation, -2, 0, 0.5, 2.0, gains.persistence)


def sgd_growth(rate: float, gains: Gains, squared_gradient: float) -> float:
    """Growth of ‖W‖⁴ in a step without decay, 2 (ηH)² E‖g̃‖²."""
    return 2.0 * (rate * gains.total) ** 2 * squared_gradient


def adam_growth(rate: float, elements: int) -> float:
    """Growth of ‖W‖² in a step without decay, η² elements."""
    return rate**2 * elements


def lion_growth(rate: float, betas: tuple[float, float], elements: int) -> float:
    """Growth of ‖W‖² in a step without decay, η² V elements."""
    return rate**2 * elements * lion_persistence(betas)


def lars_growth(step: float, gains: Gains, decay: float = 0.0) -> float:
    """Growth of ln ‖W‖ in a step: ½ ln(1 + (η'H)²) less what decoupled decay takes off, ηλ."""
    return orthogonal_growth(step * gains.total) - decay
