"""What equilibria mean for the user: codes, default limits and words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fromage_cli.diagnostics.intrinsic_lr.law import RATE_POWERS
from fromage_cli.diagnostics.intrinsic_lr.result import IntrinsicResult, LayerEquilibrium
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import LARS

SETTLED, SOON = 0.2, 0.25
"""A power of the norm that far from its end, in its logarithm, changes within so much of a relaxation time."""
RIGHT = 1e-2
"""Cosine from which on an angle counts as a right one."""
NAMED = 3
"""Names spelled out in a sentence."""


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a finding."""

    far: float = 2.0
    """Factor between a norm and its equilibrium from which it is said."""
    turning: float = 1.5
    """Factor between observed and expected rotation from which it is said."""
    memory: float = 3.0
    """The relaxation should last so many times the optimizer's memory; at 2.5, AdamW's took 15 % longer."""


def judge(result: IntrinsicResult, limits: Limits | None = None) -> tuple[Finding, ...]:
    """The findings of a network against its equilibria, the gravest kinds first."""
    limits = limits or Limits()
    return (
        *_growing(result),
        *_far(result, limits),
        *_turning(result, limits),
        *_short(result, limits),
        *_not_invariant(result),
        *_joint(result.layers),
    )


def _growing(result: IntrinsicResult) -> Iterator[Finding]:
    """Layers whose norm grows for ever."""
    growing = [(rate, layer) for layer in result.layers if (rate := known(layer.growth_per_step) or 0.0) > 0.0]
    if not growing:
        return
    rate, fastest = max(growing, key=lambda one: one[0])
    yield Finding(
        code="no-equilibrium",
        severity="warn",
        layer=fastest.name,
        message=f"has no equilibrium{_others(len(growing))}: its norm grows by {rate:.3g} a step in ln ‖W‖"
        + ("" if result.optimizer == LARS.name else ", ever more slowly, and its effective rate falls"),
        value=rate,
        limit=0.0,
        hint=_balance(fastest, rate)
        if result.optimizer == LARS.name and result.decay == "decoupled"
        else "Decay the weights: they then settle at a norm, and the effective rate with them.",
    )


def _balance(layer: LayerEquilibrium, growth: float) -> str:
    """For LARS whose decay is decoupled already."""
    keeps, rate, decay = "", known(layer.learning_rate), known(layer.weight_decay)
    if rate and decay is not None:
        keeps = f"; past it, only a decay of {growth / rate + decay:.3g} keeps one"
    return (
        f"Let the decay be part of the gradient, where a norm settles{keeps}. Or divide the update by √(1+η'²), as "
        "Fromage does."
    )


def _others(count: int) -> str:
    return "" if count == 1 else f", nor {'has one more layer' if count == 2 else f'have {count - 1} more layers'}"


def _far(result: IntrinsicResult, limits: Limits) -> Iterator[Finding]:
    for layer in result.layers:
        steps = known(layer.steps_to_equilibrium)
        if isinstance(layer.log_ratio, Missing) or abs(layer.log_ratio) < math.log(limits.far) or steps is None:
            continue
        factor = math.exp(abs(layer.log_ratio))
        side, speed = ("above", "more slowly") if layer.log_ratio > 0.0 else ("below", "faster")
        turning = f": it turns {speed} than it will in the end" if RATE_POWERS.get(result.optimizer) else ""
        epochs = ""
        if result.steps_per_epoch and steps:
            epochs = f" ({steps / result.steps_per_epoch:.3g} epochs)"
        yield Finding(
            code="far-from-equilibrium",
            severity="info",
            layer=layer.name,
            message=f"its norm is {factor:.3g} × {side} equilibrium, {steps:.0f} steps{epochs} away{turning}",
            value=layer.log_ratio,
            limit=math.log(limits.far),
            hint="A larger product of rate and decay relaxes faster; another initial norm spares the way.",
        )


def _turning(result: IntrinsicResult, limits: Limits) -> Iterator[Finding]:
    """Layers that turned as by steps much larger or smaller than theory has them for the present norm."""
    power, steps = RATE_POWERS.get(result.optimizer) or 0, _last_steps(result)
    for layer in result.layers:
        expected, observed, log_ratio = map(known, (layer.expected_rotation, layer.observed_rotation, layer.log_ratio))
        if not expected or not observed or _moved_meanwhile(layer, power, steps):
            continue
        at_norm = _decorrelation(expected) * math.exp(-2.0 * power * (log_ratio or 0.0))
        ratio = math.sqrt(_decorrelation(observed) / at_norm)
        if ratio > limits.turning or ratio < 1.0 / limits.turning:
            yield Finding(
                code="rotation-off",
                severity="info",
                layer=layer.name,
                message=f"turned by {observed:.3g} rad between the last two checkpoints, as by steps {ratio:.2g} × "
                f"those of noise alone {'at this norm' if log_ratio is not None else 'at equilibrium'}",
                value=ratio,
                limit=limits.turning,
                hint="Gradients that agree or cancel between batches, a rate that changed, or a scale that is felt.",
            )


def _last_steps(result: IntrinsicResult) -> int | None:
    """Between the last two checkpoints."""
    before, after = result.steps[-2:] if len(result.steps) > 1 else (None, None)
    return after - before if before is not None and after is not None else None


def _moved_meanwhile(layer: LayerEquilibrium, power: int, steps: int | None) -> bool:
    """Whether the norm was another one for much of the way, so that the present one explains no angle."""
    log_ratio, relaxation = known(layer.log_ratio), known(layer.relaxation_steps)
    if not power or not log_ratio or not relaxation or steps is None:
        return False
    return abs(power * log_ratio) > SETTLED and steps > SOON * relaxation


def _decorrelation(angle: float) -> float:
    """−ln cos: what the steps of a walk add up to, where the angle itself saturates at a right one."""
    return -0.5 * math.log1p(-min(math.sin(min(angle, math.pi / 2.0)) ** 2, 1.0 - RIGHT**2))


def _short(result: IntrinsicResult, limits: Limits) -> Iterator[Finding]:
    memory = memory_steps(result)
    times = [(steps, layer) for layer in result.layers if (steps := known(layer.relaxation_steps)) is not None]
    short = [(steps, layer) for steps, layer in times if steps < limits.memory * memory]
    if short:
        steps, shortest = min(short, key=lambda one: one[0])
        yield Finding(
            code="relaxation-too-short",
            severity="info",
            layer=shortest.name,
            message=f"relaxes in {steps:.0f} steps, not long beside the {memory:.0f} that "
            f"{result.optimizer} averages over: the times are rough ({len(short)} of {len(result.layers)} layers)",
            value=steps,
            limit=limits.memory * memory,
            hint="Norm and rotation hold all the same; the way there takes longer than told.",
        )


def memory_steps(result: IntrinsicResult) -> float:
    """Steps over which the optimizer averages."""
    return 1.0 / (1.0 - max(result.betas)) if result.betas else 1.0 / (1.0 - (result.momentum or 0.0))


def _not_invariant(result: IntrinsicResult) -> Iterator[Finding]:
    names = [layer.name for layer in result.layers if layer.verdict == "none"]
    if names:
        yield Finding(
            code="not-scale-invariant",
            severity="info",
            layer=names[0] if len(names) == 1 else None,
            message=f"not scale-invariant, so that the theory is silent: {len(names)} of {len(result.layers)} layers, "
            f"{_listed(names)}",
            value=float(len(names)),
            hint="norms shows what was measured.",
        )


def _joint(layers: Sequence[LayerEquilibrium]) -> Iterator[Finding]:
    names = [layer.name for layer in layers if layer.granularity == "joint"]
    if names:
        yield Finding(
            code="invariant-with-bias",
            severity="info",
            layer=names[0] if len(names) == 1 else None,
            message=f"scale-invariant only together with a bias, which the numbers leave out: {_listed(names)}",
            value=float(len(names)),
            hint="They are right as far as the bias is small beside the weights and decays as they do.",
        )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}"
