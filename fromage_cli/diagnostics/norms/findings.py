"""What the growth of norms means for the user: codes, limits and words."""

import math
from collections.abc import Iterator

from fromage_cli.diagnostics.norms.result import NormsResult
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, known
from fromage_cli.theory.growth import is_drift

REMEDY = "Divide the update by √(1+η²) as Fromage does, decay the weights, or bound their norm."
DECAYED = (
    "The weight decay slows this down until the norm settles; intrinsic-lr tells where and when. Dividing the update "
    "by √(1+η²) as Fromage does, or a bound on the norm, holds it at once."
)
"""Where the optimizer decays the weights already."""
FELT = "none"
"""Verdict on a layer whose scale the network feels."""
LAW = 0.1
"""Relative distance within which growth is that of the law: momentum and a finite step leave a few per cent."""
DOUBLING = 10.0
"""Growth of an invariant layer is a warning when its norm doubles within so many times the series' length."""
HORIZON = 10.0
"""An overflow is a warning when it is no further away than so many times the series is long."""
UNEVEN = 0.1
"""Share of a layer's rows that may be dead: a few tokens that never occur are no news."""


def judge(result: NormsResult) -> tuple[Finding, ...]:
    """The findings of a series of norms, the gravest kinds first."""
    return (*_not_finite(result), *_growth(result), *_dead_parts(result))


def _span(result: NormsResult) -> tuple[int, int]:
    """The last step, and how many there are from the first."""
    steps = [step for step in result.steps if not isinstance(step, Missing)] or [0]
    return steps[-1], steps[-1] - steps[0]


def _not_finite(result: NormsResult) -> Iterator[Finding]:
    """Norms that are not finite, and those that will not be for long."""
    for layer in result.layers:
        bad = sum(not math.isfinite(norm) for norm in layer.norms)
        if bad:
            yield Finding(
                code="norm-not-finite",
                severity="fail",
                layer=layer.name,
                message=f"its norm is not finite at {bad} of {len(layer.norms)} steps",
                hint="Go back to the last checkpoint before; inspect counts the entries.",
            )
    end, length = _span(result)
    limit = end + HORIZON * length
    for layer in result.layers:
        reached = getattr(layer.overflow_step, layer.dtype, None)
        step = known(reached.entries) if reached is not None else None
        if step is not None and step <= limit:
            epoch = f" (epoch {step / result.steps_per_epoch:.0f})" if result.steps_per_epoch else ""
            yield Finding(
                code="norm-overflows",
                severity="warn",
                layer=layer.name,
                message=f"if it goes on growing its largest entry leaves {layer.dtype} at step {step:.0f}{epoch}",
                value=step,
                limit=limit,
                hint=REMEDY,
            )


def _growth(result: NormsResult) -> Iterator[Finding]:
    """Invariant layers that grow; and those not tested that follow the law, which hints at invariance."""
    (end, length), decays = _span(result), bool(known(result.weight_decay))
    for layer in result.layers:
        growth, law, verdict = known(layer.growth_per_step), known(layer.predicted_growth), layer.invariance.verdict
        if growth is None or verdict == FELT or not is_drift(growth, known(layer.growth_stderr), len(layer.norms)):
            continue
        doubling = math.log(2) / growth
        if verdict == "untested":
            code, what = "norm-follows-law", "grows"
            told = law is not None and law > 0.0 and abs(growth - law) <= LAW * law
        else:
            code, what = "invariant-layer-grows", "is scale-invariant and grows"
            if verdict != "invariant":
                what = f"is scale-invariant ({verdict}) and grows"
            told = doubling <= DOUBLING * length
        if not told:
            continue
        beside = f", where the law says {law:.4g}" if law is not None else ""
        epochs = f" ({doubling / result.steps_per_epoch:.0f} epochs)" if result.steps_per_epoch else ""
        halved, consequence = known(layer.halved_step), ""
        if halved is not None:
            verb = "halved" if halved <= end else "will have halved"
            consequence = f", its effective learning rate {verb} since the first checkpoint by step {halved:.0f}"
        yield Finding(
            code=code,
            severity="warn",
            layer=layer.name,
            message=f"{what} by {growth:.4g} a step in ln ‖W‖{beside}: its norm doubles every {doubling:.0f} steps"
            f"{epochs}{' at this pace' if decays else ''}{consequence}",
            value=growth,
            limit=law,
            hint=DECAYED if decays else REMEDY,
        )


def _dead_parts(result: NormsResult) -> Iterator[Finding]:
    """Rows of which nothing is left, and biases without effect."""
    for layer in result.layers:
        channels = known(layer.channels)
        if channels is not None and channels.dead > UNEVEN * channels.count:
            yield Finding(
                code="rows-dead",
                severity="info",
                layer=layer.name,
                message=f"{channels.dead} of its {channels.count} rows are zero, or nearly",
                value=float(channels.dead),
                limit=UNEVEN * channels.count,
                hint="Pruned, never used, or decayed away: channels whose gain went to zero, tokens that never occur.",
            )
    for layer in result.layers:
        if layer.dead_bias:
            yield Finding(
                code="bias-dead",
                severity="info",
                layer=layer.name,
                message="its bias has no effect: what follows takes it away, and its gradient is nothing but rounding",
                hint="Leave the bias out before a norm over the batch or over positions, and of a projection to keys.",
            )
