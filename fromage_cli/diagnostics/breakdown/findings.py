"""What a breakdown curve means for the user: codes, default limits and words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown
from fromage_cli.findings import Finding


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a finding."""

    trust_warn: float = 1e-3
    """Trust eta of a layer below which it is a warning: a third of what the paper's networks show."""
    trust_fail: float = 1e-4
    """Below it no customary relative rate is certain to descend: a failure."""
    noise: float = 1e-3
    """Noise floor above which evaluations are not repeatable enough to be trusted."""
    curvature: float = 4.0
    """Measured crossing over the one that the slope at 0 promises, above which it is said."""
    bracket: float = 3.0
    """Ratio of the two points around the crossing above which the interpolation is rough."""
    bound_slack: float = 1e-3
    """Relative slack of Lemma 1's inequality, which the sampled path meets only up to the grid's spacing."""


def judge(result: BreakdownResult, limits: Limits | None = None) -> tuple[Finding, ...]:
    """The findings of a breakdown result, the gravest kinds first."""
    limits = limits or Limits()
    return (
        *_trust(result, limits),
        *(_uncertifiable(result.layers) if result.direction != "random" else ()),
        *_noise(result, limits),
        *_zero_gradients(result),
        *_below_grid(result, limits),
        *_coarse_grid(result, limits),
        *_wide_bracket(result, limits),
        *_early_curvature(result, limits),
        *_overflow(result),
        *_no_second_derivative(result),
    )


def _trust(result: BreakdownResult, limits: Limits) -> Iterator[Finding]:
    places = [(_earliest(layer, result), layer) for layer in result.layers]
    early = [(eta, layer) for eta, layer in places if eta is not None and eta < limits.trust_warn]
    for eta, layer in sorted(early, key=lambda place: place[0]):
        below = layer.trust_relation == "below-grid"
        yield Finding(
            code="breakdown-early",
            severity="fail" if eta <= limits.trust_fail else "warn",
            layer=layer.name,
            message=f"the gradient has changed by as much as the step relies on "
            f"{'already below' if below else 'at'} a relative step of {eta:.2g}",
            value=eta,
            limit=limits.trust_warn,
            hint="Lower --eta to find the crossing."
            if below
            else "Keep the relative update of this layer below it: a smaller rate, a norm bound, or normalisation.",
        )


def _earliest(layer: LayerBreakdown, result: BreakdownResult) -> float | None:
    """The layer's own relative step at its trust eta, or at the end of the grid that this lies below.

    None for the way to another checkpoint, which is no update that could be made smaller.
    """
    if result.direction.startswith("to:") or layer.relative_step is None:
        return None
    eta = result.etas[0] if layer.trust_relation == "below-grid" and result.etas else layer.trust_eta
    return eta * layer.relative_step if eta is not None else None


def _uncertifiable(layers: Sequence[LayerBreakdown]) -> Iterator[Finding]:
    for layer in layers:
        if layer.trust_relation == "uncertifiable" and layer.gradient_norm > 0.0 and layer.cosine <= 0.0:
            yield Finding(
                code="step-ascends",
                severity="warn",
                layer=layer.name,
                message=f"the step does not descend in this layer (cosine {layer.cosine:.2g}); no size is certified",
                value=layer.cosine,
                limit=0.0,
                hint="Look at the sum over all layers, aggregate_trust_eta.",
            )


def _noise(result: BreakdownResult, limits: Limits) -> Iterator[Finding]:
    if result.noise:
        yield Finding(
            code="gradient-is-rounding",
            severity="info",
            layer=result.noise[0] if len(result.noise) == 1 else None,
            message=f"the gradient of {_counted(result.noise)} is zero but for rounding, so nothing is said of "
            f"{'its' if len(result.noise) == 1 else 'their'} breakdown: {_first_names(result.noise)}",
            value=float(len(result.noise)),
            hint="Usual for biases before a normalisation and for the keys' bias in attention; otherwise try "
            "--dtype float64.",
        )
    noisy = [(layer.noise_floor or 0.0, layer.name) for layer in result.layers if layer.name not in result.noise]
    noisy = [(floor, name) for floor, name in noisy if floor > limits.noise]
    if noisy:
        worst, name = max(noisy)
        yield Finding(
            code="noisy-gradient",
            severity="warn",
            layer=name,
            message=f"rounding alone changes the gradient by {worst:.1g} of its size "
            f"({len(noisy)} layers above {limits.noise:g}): breakdowns are no more exact than that",
            value=worst,
            limit=limits.noise,
            hint="Precision is short: repeat with --dtype float64. If it stays, the model draws random numbers that no "
            "seed reaches.",
        )


def _zero_gradients(result: BreakdownResult) -> Iterator[Finding]:
    dead = [tensor.name for tensor in result.skipped if tensor.reason in ("zero gradient", "zero weights")]
    if dead:
        yield Finding(
            code="tensor-still",
            severity="info",
            layer=dead[0] if len(dead) == 1 else None,
            message=f"{_counted(dead)} with zero weights or zero gradient "
            f"do{'' if len(dead) > 1 else 'es'} not move: {_first_names(dead)}",
            value=float(len(dead)),
            limit=0.0,
            hint="A relative step is not defined for them.",
        )


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _first_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"


def _coarse_grid(result: BreakdownResult, limits: Limits) -> Iterator[Finding]:
    for eta, loss, bound in zip(result.etas, result.losses, result.loss_bounds, strict=True):
        change = loss - result.loss
        if change > bound + limits.bound_slack * (abs(bound) + abs(change)) + 1e-6 * abs(result.loss):
            yield Finding(
                code="grid-too-coarse",
                severity="info",
                message=f"at η = {eta:.2g} the loss changed by {change:.3g}, more than Lemma 1 allows on this grid "
                f"({bound:.3g}): the grid is too coarse, or the loss jumps",
                value=change,
                limit=bound,
                hint="Take more points with --eta.",
            )
            return


def _below_grid(result: BreakdownResult, limits: Limits) -> Iterator[Finding]:
    if result.trust_relation == "below-grid" and result.etas and result.etas[0] >= limits.trust_warn:
        yield Finding(
            code="grid-starts-late",
            severity="warn",
            layer=result.limiting_layer,
            message=f"the gradient has changed too much already at the first point, η = {result.etas[0]:.2g}",
            value=result.etas[0],
            hint="Begin with smaller steps: --eta.",
        )


def _wide_bracket(result: BreakdownResult, limits: Limits) -> Iterator[Finding]:
    trust = result.trust_eta
    pairs = zip(result.etas[:-1], result.etas[1:], strict=True)
    low, high = next(((a, b) for a, b in pairs if trust is not None and a <= trust <= b), (1.0, 1.0))
    if high / low > limits.bracket:
        yield Finding(
            code="grid-wide",
            severity="info",
            message=f"the crossing is interpolated between η = {low:.2g} and {high:.2g}, which are far apart",
            value=high / low,
            limit=limits.bracket,
            hint="Take more points with --eta.",
        )


def _early_curvature(result: BreakdownResult, limits: Limits) -> Iterator[Finding]:
    """The slope at 0 against the curve: what bends back between two points of the grid is seen by the first alone."""
    slope, trust = result.linear_trust_eta, result.trust_eta
    if slope is not None and trust is not None and trust > limits.curvature * slope:
        yield Finding(
            code="curvature-breaks-earlier",
            severity="info",
            message=f"by the slope at η = 0 the gradient changes too much from η = {slope:.2g} on, by the points of "
            f"the grid from {trust:.2g}: a spike between them may be missed",
            value=trust / slope,
            limit=limits.curvature,
            hint=f"Look closer with --eta {slope / 4.0:.1g}:{trust:.1g}:33; where that finds nothing, the curve bends "
            "back.",
        )


def _overflow(result: BreakdownResult) -> Iterator[Finding]:
    first = next((eta for eta, loss in zip(result.etas, result.losses, strict=True) if not math.isfinite(loss)), None)
    if first is not None:
        yield Finding(
            code="loss-overflows",
            severity="info",
            message=f"the loss is not finite from η = {first:.2g} on",
            value=first,
            hint="An ordinary result at large steps; the smaller ones are unaffected.",
        )


def _no_second_derivative(result: BreakdownResult) -> Iterator[Finding]:
    if result.linear_trust_relation == "unavailable":
        yield Finding(
            code="no-second-derivative",
            severity="info",
            message="the loss has no usable second derivative here, so linear_trust_eta is missing",
            hint="The measured crossing does not need it.",
        )
