"""What a breakdown curve means for the user: codes, limits and words."""

import math
from collections.abc import Iterator
from itertools import pairwise

from fromage_cli.counting import counted
from fromage_cli.diagnostics.breakdown.derived import GRADIENT_FACTOR, TOO_SMALL
from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.findings import (
    Finding,
    about_names,
    gradient_is_not_the_losses,
    gradient_is_rounding,
    gradient_is_zero,
    layer_out_of_line,
    layers_without_size,
)
from fromage_cli.missing import Missing, Why, known
from fromage_cli.probes.lines.direction import Still
from fromage_cli.theory.siblings import WEIGHT_FACTOR

EARLY = 1e-3
"""Trust eta of a layer below which it is said: a third of what the paper's networks show.

It is no verdict: in docs/run-study.md 17 of 23 healthy runs had such a layer, and 25 of 29 sick ones.
"""
NOISE = 1e-3
"""Noise floor above which evaluations are not repeatable enough to be trusted."""
CURVATURE = 4.0
"""Measured crossing over the one that the slope at 0 promises, above which it is said."""
BRACKET = 3.0
"""Ratio of the two points around the crossing above which the interpolation is rough."""
BOUND_SLACK = 1e-3
"""Relative slack of Lemma 1's inequality, which the sampled path meets only up to the grid's spacing."""
LOSS_SLACK = 1e-6
"""Relative slack of the loss in it, for rounding."""
BLURRED = 0.3
"""Noise floor, as a share of the cosine, from which on a crossing may be rounding's and blames no layer."""
NARROW = "bfloat16"
"""The precision of the passes under autocast, where rounding is no surprise."""


def judge(result: BreakdownResult) -> tuple[Finding, ...]:
    """The findings of a breakdown result, the gravest kinds first."""
    return (
        *_first_order(result),
        *_trust(result),
        *_out_of_line(result),
        *_gradients(result),
        *_grid(result),
        *_between_and_beyond(result),
    )


def _first_order(result: BreakdownResult) -> Iterator[Finding]:
    """A gradient that is not that of the loss, and steps that are too small to be made."""
    measured = known(result.measured_loss_slope)
    if result.contradicted and measured is not None:
        yield gradient_is_not_the_losses(measured, result.loss_slope)
    small = [eta for eta, bound in zip(result.etas, result.loss_bounds, strict=True) if bound == TOO_SMALL]
    if small:
        yield Finding(
            code="steps-too-small",
            severity="info",
            message=f"{result.precision} cannot make steps of η = {small[-1]:.2g} or less: "
            f"{counted(len(small), 'step')} not judged",
            value=small[-1],
            hint="Repeat with --dtype float64, or let --eta begin above it.",
        )


def _trust(result: BreakdownResult) -> Iterator[Finding]:
    """Layers that limit the step severely, and layers in which it does not descend."""
    early = []
    matrices = [layer for layer in result.layers if len(layer.shape) > 1]  # vectors are judged together
    for layer in matrices or result.layers:
        eta = layer.trust_eta_upper if layer.trust_relation == "below-grid" else known(layer.trust_eta)
        step = known(layer.relative_step)
        # the way to another checkpoint is no update that could be made smaller
        blurred = (known(layer.noise_floor) or 0.0) >= BLURRED * layer.cosine
        if eta is not None and step is not None and not blurred and not result.direction.startswith("to:"):
            early.append((eta * step, layer))
    for eta, layer in sorted(early, key=lambda place: place[0]):
        if eta >= EARLY:
            break
        below = layer.trust_relation == "below-grid"
        yield Finding(
            code="breakdown-early",
            severity="info",
            layer=layer.name,
            message=f"stops helping {'below' if below else 'at'} a relative step of {eta:.2g}, which is very early",
            value=eta,
            limit=EARLY,
            hint="Let --eta begin lower to find the place."
            if below
            else "Keep this layer's ‖ΔW‖/‖W‖ below that: lower its learning rate, or clip its update.",
        )
    judged = result.aggregate_trust_relation in ("crossing", "above-grid")
    for layer in result.layers if result.direction != "random" else ():
        if layer.trust_relation == "uncertifiable" and layer.gradient_norm > 0.0 and layer.cosine <= 0.0:
            yield Finding(
                code="step-ascends",
                severity="info",
                layer=layer.name,
                message=f"in this layer the step points uphill (cosine {layer.cosine:.2g})",
                value=layer.cosine,
                limit=0.0,
                hint="Judge by the line “Sure as a whole”." if judged else "",
            )


def _out_of_line(result: BreakdownResult) -> Iterator[Finding]:
    """Layers unlike their siblings."""
    whose = {"weights": "weights are", "step": "relative step is", "gradient": "gradient is"}
    for odd in result.out_of_line:
        limit = WEIGHT_FACTOR if odd.quantity == "weights" else GRADIENT_FACTOR
        alarming = odd.quantity == "weights" and odd.factor > 1.0
        yield layer_out_of_line(odd.name, whose[odd.quantity], odd.factor, limit, alarming=alarming)


def _gradients(result: BreakdownResult) -> Iterator[Finding]:
    """Gradients that are rounding, noisy or zero, and weights that are nearly zero."""
    if result.noise:
        yield gradient_is_rounding(result.noise)
    floors = [
        (known(layer.noise_floor) or 0.0, layer.name) for layer in result.layers if layer.name not in result.noise
    ]
    noisy = [(floor, name) for floor, name in floors if floor > NOISE]
    if noisy:
        worst, name = max(noisy)
        narrow = result.precision == NARROW
        yield Finding(
            code="noisy-gradient",
            severity="info" if narrow else "warn",
            layer=name,
            message=f"rounding changes the gradient by {100 * worst:.1g} % of its size "
            f"({counted(len(noisy), 'layer')} above {100 * NOISE:g} %): the numbers are no finer than that",
            value=worst,
            limit=NOISE,
            hint="Usual in bfloat16. Leave --autocast out to see smaller changes."
            if narrow
            else "Repeat with --dtype float64. If it stays, the model draws random numbers that no seed reaches.",
        )
    if result.without_size:
        yield layers_without_size(result.without_size)
    zero = [tensor.name for tensor in result.skipped if tensor.reason == Still.ZERO_GRADIENT]
    zero += [layer.name for layer in result.layers if layer.gradient_norm == 0.0 and layer.name not in result.noise]
    if zero:
        yield gradient_is_zero(zero)
    dead = [tensor.name for tensor in result.skipped if tensor.reason in (Still.ZERO_WEIGHTS, Still.ZERO_STEP)]
    if dead:
        hint = "A relative step is not defined for them."
        yield about_names(
            "tensor-still",
            "info",
            dead,
            f"left out: {counted(len(dead), 'tensor')} of zeros or of zero steps",
            hint,
            limit=0.0,
        )


def _grid(result: BreakdownResult) -> Iterator[Finding]:
    """Grids that begin too late, or are too coarse for what is read off them."""
    trust, etas, first = known(result.trust_eta), result.etas, result.trust_eta_upper
    if result.trust_relation == "below-grid" and first is not None and first >= EARLY:
        yield Finding(
            code="grid-starts-late",
            severity="warn",
            layer=result.limiting_layer,
            message=f"stops helping before the smallest step tried, η = {first:.2g}",
            value=first,
            hint=f"Let --eta begin lower: --eta {first / 100:.1g}:{first:.1g}:17.",
        )
    slack = max(LOSS_SLACK * abs(result.loss), result.loss_floor)
    for eta, loss, bound in zip(etas, result.losses, map(known, result.loss_bounds), strict=True):
        change = loss - result.loss
        if bound is not None and change > bound + BOUND_SLACK * (abs(bound) + abs(change)) + slack:
            yield Finding(
                code="grid-too-coarse",
                severity="info",
                message=f"at η = {eta:.2g} the loss changed by {change:.3g}, more than these steps explain "
                f"({bound:.3g}): they are too few, or the loss jumps",
                value=change,
                limit=bound,
                hint="Try more steps with --eta.",
            )
            break
    low, high = next(((a, b) for a, b in pairwise(etas) if trust is not None and a <= trust <= b), (1.0, 1.0))
    if high / low > BRACKET and result.trust_eta_upper is None:
        yield Finding(
            code="grid-wide",
            severity="info",
            message=f"the first number lies between η = {low:.2g} and {high:.2g}, which are far apart",
            value=high / low,
            limit=BRACKET,
            hint=f"Try more steps between: --eta {low:.1g}:{high:.1g}:9.",
        )


def finer_grid(result: BreakdownResult) -> str | None:
    """The steps to try where curvature alone allows far less than the curve; None where the two agree."""
    slope, trust = known(result.linear_trust_eta), known(result.trust_eta)
    if slope is None or trust is None or trust <= CURVATURE * slope:
        return None
    return f"{slope / 4.0:.1g}:{trust:.1g}:33"


def _between_and_beyond(result: BreakdownResult) -> Iterator[Finding]:
    """What the slope at 0 shows between the points of the grid, and where the loss or its curvature cannot be had."""
    slope, trust, grid = known(result.linear_trust_eta), known(result.trust_eta), finer_grid(result)
    if slope is not None and trust is not None and grid is not None:
        yield Finding(
            code="curvature-breaks-earlier",
            severity="info",
            message=f"check with --eta {grid}: curvature alone allows only η = {slope:.2g}",
            value=trust / slope,
            limit=CURVATURE,
            hint=f"The curve may have a spike between the steps tried. Without one, {trust:.2g} holds.",
        )
    first = next((eta for eta, loss in zip(result.etas, result.losses, strict=True) if not math.isfinite(loss)), None)
    if first is not None:
        yield Finding(
            code="loss-overflows",
            severity="info",
            message=f"the loss is not finite from η = {first:.2g} on",
            value=first,
            hint="This is usual for large steps; the numbers of smaller ones hold.",
        )
    linear = result.linear_trust_eta
    if isinstance(linear, Missing) and linear.code is Why.NO_SECOND_DERIVATIVE:  # no limit ended the measurement before
        yield Finding(
            code="no-second-derivative",
            severity="info",
            message="the loss has no second derivative here, so curvature was not read",
            hint="The other numbers do not need it.",
        )
