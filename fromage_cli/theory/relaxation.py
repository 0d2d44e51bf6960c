"""How a norm comes to its equilibrium: at a constant rate, after a drop, and along a schedule.

‖W‖^p relaxes exponentially, p and the time τ being those of the rule. Sources: as for equilibrium.py.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fromage_cli.theory.equilibrium import Equilibrium, Gains, lion_persistence

NEAR = 0.1
"""Relative distance from its end within which a norm, or an effective rate, counts as there."""


LARGEST = 700.0
"""Exponent whose exponential is still a number in double precision."""


def relaxed(ratio: float, times: float, power: int) -> float:
    """‖W‖ / ‖W*‖ after so many relaxation times, from `ratio`: (1 + (r^p − 1) e^(−t/τ))^(1/p)."""
    return float((1.0 + (ratio**power - 1.0) * math.exp(-times)) ** (1.0 / power))


def times_until_near(ratio: float, power: int) -> float:
    """Relaxation times until ‖W‖ is within NEAR of ‖W*‖: ln((r^p − 1) / ((1 ± NEAR)^p − 1)); 0 where it is."""
    if abs(ratio - 1.0) <= NEAR:
        return 0.0
    edge = 1.0 + NEAR if ratio > 1.0 else 1.0 - NEAR
    return math.log((ratio**power - 1.0) / (edge**power - 1.0))


@dataclass(frozen=True)
class AfterDrop:
    """What dropping the rate to η / factor does to the effective rate; everything relative to before."""

    relaxation: float
    """Steps, at the new rate."""
    ratio: float
    """‖W‖ over its new equilibrium norm, at once."""
    at_once: float
    """Effective rate right after the drop: 1 / factor."""
    final: float
    """Effective rate in the end."""
    power: int
    rate_power: int

    def at(self, step: float) -> float:
        """The effective rate so many steps after the drop."""
        now = relaxed(self.ratio, step / self.relaxation, self.power)
        return self.at_once * (self.ratio / now) ** self.rate_power

    def recovery(self) -> float:
        """Steps until the effective rate is within NEAR of its end."""
        start = self.at_once / self.final
        if self.rate_power == 0 or abs(start - 1.0) <= NEAR:
            return 0.0
        edge = (1.0 + NEAR if start > 1.0 else 1.0 - NEAR) ** (-1.0 / self.rate_power)
        return self.relaxation * math.log((self.ratio**self.power - 1.0) / (edge**self.power - 1.0))


def after_drop(equilibrium: Equilibrium, factor: float, ratio: float = 1.0) -> AfterDrop | None:
    """How the effective rate goes on once the rate is divided by `factor`; None without an equilibrium.

    `ratio`: ‖W‖ / ‖W*‖ at the drop. For SGD from equilibrium η_e(t) / η_e(0) = 1/f / √(e^(−t/τ) + (1 − e^(−t/τ))/f).
    """
    if equilibrium.relaxation is None:
        return None
    new_ratio = ratio * factor**equilibrium.norm_exponent
    return AfterDrop(
        relaxation=equilibrium.relaxation * factor**equilibrium.relaxation_exponent,
        ratio=new_ratio,
        at_once=1.0 / factor,
        final=new_ratio**equilibrium.rate_power / factor,
        power=equilibrium.power,
        rate_power=equilibrium.rate_power,
    )


@dataclass(frozen=True)
class Trend:
    """How large squares of gradients are along a run beside those at the step `now`: as steps to a power."""

    power: float = 0.0
    now: float = 1.0
    since: float = 0.5
    """The step before which they are taken to be as large as there: no checkpoint is older."""

    def at(self, step: float) -> float:
        """Relative to now."""
        return (max(step, self.since) / self.now) ** self.power if self.power else 1.0


STEADY = Trend()


@dataclass(frozen=True)
class Motion:
    """How the norm w of a scale-invariant unit goes at a rate η: dy/dt = −a y + b G, y = w^power.

    a = a₁η + a₂η² and b = b₁η + b₂η². G: what its gradients are as large as, by the rule.
    """

    power: int
    loss: tuple[float, float]
    """a₁ and a₂."""
    gain: tuple[float, float]
    """b₁ and b₂."""

    def along(
        self, peak: float, pieces: Iterable[tuple[float, float, float]], trend: Trend = STEADY
    ) -> Iterator[tuple[float, float, float]]:
        """Yield where each piece of a schedule ends, and D and I there: y = D y(start) + I G, exact at constant rates.

        `pieces`: where each ends, how many steps it has, and the share of the peak that the rate has in it. `trend`:
        that of G, which itself is the one at the trend's `now`.
        """
        kept, added = 1.0, 0.0
        for end, steps, factor in pieces:
            rate = peak * factor
            lost, gained = ((one + two * rate) * rate * steps for one, two in (self.loss, self.gain))
            lost = max(lost, -LARGEST)
            shrunk, gained = math.exp(-lost), gained * trend.at(end - 0.5 * steps)
            kept, added = kept * shrunk, added * shrunk + gained * (-math.expm1(-lost) / lost if lost else 1.0)
            yield end, kept, added


def sgd_motion(decay: float, gains: Gains) -> Motion:
    """SGD: d‖w‖⁴/dt = −4ηλH ‖w‖⁴ + 2(ηH)² E‖g̃‖²."""
    return Motion(4, (4.0 * decay * gains.total, 0.0), (0.0, 2.0 * gains.total**2))


def adamw_motion(decay: float) -> Motion:
    """AdamW: d‖W‖²/dt = −2ηλ ‖W‖² + η² elements."""
    return Motion(2, (2.0 * decay, 0.0), (0.0, 1.0))


def lion_motion(decay: float, betas: tuple[float, float]) -> Motion:
    """Lion: d‖W‖²/dt = −2ηλ ‖W‖² + η² V elements."""
    return Motion(2, (2.0 * decay, 0.0), (0.0, lion_persistence(betas)))


def lars_motion(decay: float, trust: float, gains: Gains) -> Motion:
    """LARS, η' = η trust, decay in its gradient: d‖W‖⁻²/dt = −(η'H)² ‖W‖⁻² + 2λη'H / ‖g̃‖; G = 1 / ‖g̃‖."""
    reach = trust * gains.total
    return Motion(-2, (0.0, reach**2), (2.0 * decay * reach, 0.0))


def relative_motion(decay: float, trust: float, gains: Gains) -> Motion:
    """A relative step η' with decay past the gradient: d ln ‖W‖/dt = ½(η'H)² − ηλ."""
    return Motion(-2, (-2.0 * decay, (trust * gains.total) ** 2), (0.0, 0.0))
