"""What the growth of norms means for the user: codes, limits and words."""

import math
import re
from collections.abc import Iterator, Sequence

from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.result import NormsResult
from fromage_cli.findings import Finding, layers_unchanged, never_updated
from fromage_cli.missing import Missing, known
from fromage_cli.theory.growth import is_drift

REMEDY = "Divide the update by √(1+η²) as Fromage does, decay the weights, or bound their norm."
DECAYED = (
    "The weight decay slows this down until the norm settles; intrinsic-lr tells where and when. Dividing the update "
    "by √(1+η²) as Fromage does, or a bound on the norm, holds it at once."
)
"""Where the optimizer decays the weights already."""
GREW = "Lower the learning rate, warm it up for longer, decay the weights, or bound their norm."
SHRANK = "The weight decay, or the rate, is too large for what the gradient gives: lower it."
FELT = "none"
"""Verdict on a layer whose scale the network feels."""
LAW = 0.1
"""Relative distance within which growth is that of the law: momentum and a finite step leave a few per cent."""
DOUBLING = 10.0
"""Growth of an invariant layer is told when its norm doubles within so many times the series' length."""
HORIZON = 10.0
"""An overflow is a warning when it is no further away than so many times the series is long."""
CHANGE = 6.0
"""Factor of a norm, either way, that is a warning: at most 4.9 in 23 healthy runs of docs/run-study.md and 5.9 in the
samples. Either half of those runs chooses one near 5, without a false alarm in the other."""
JUMP = 1.75
"""Factor between two checkpoints beyond what the others make one expect: at most 1.7 in healthy runs.

It is no verdict: thresholds that one half of docs/run-study.md chose did not separate the other half.
"""
OUT_OF_LINE = 5.0
"""Deviations beyond which a jump is none of those that the other intervals show as well."""
NEAR_ZERO = 0.05
"""Mean size of a row below which a layer begins at zero, as new branches do, and its growth is that of finding its
size: linear layers of torch begin at .58."""
_EMBEDDING = re.compile(r"embed|(^|[._])(emb|wte|wpe|tok\w*|pos\w*|cls)([._]|\d|$)", re.IGNORECASE)
"""Names of lookup tables, which begin small as well and grow by up to 14 times in healthy runs."""
UNEVEN = 0.1
"""Share of a layer's rows that may be dead: a few tokens that never occur are no news."""


def judge(result: NormsResult) -> tuple[Finding, ...]:
    """The findings of a series of norms, the gravest kinds first."""
    never = [layer.name for layer in result.layers if layer.never_updated]
    same = [layer.name for layer in result.layers if layer.unchanged]
    frozen = [never_updated(never)] if never else []
    frozen += [layers_unchanged(same, len(result.layers), len(result.steps))] if same else []
    return (*_not_finite(result), *_changes(result), *_growth(result), *_dead_parts(result), *frozen)


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


def begins_small(name: str, kind: str | None, shape: Sequence[int], first: float) -> bool:
    """Whether a layer starts far below its size, so that its norm is judged from a quarter of the run on."""
    table = kind == "Embedding" or _EMBEDDING.search(name) is not None
    return table or first < NEAR_ZERO * math.sqrt(shape[0])


def jump_size(factor: float, excess: float) -> float:
    """A jump's factor or its excess over what was expected, whichever is nearer to 1; of a fall its reciprocal."""
    return min(factor, excess) if excess > 1.0 else 1 / max(factor, excess)


def _changes(result: NormsResult) -> Iterator[Finding]:
    """Norms that have gone far, and jumps between two checkpoints: one finding of each kind, about the worst layer."""
    far, jumps = [], []
    for layer in result.layers:
        small = begins_small(layer.name, layer.kind, layer.shape, layer.norms[0])
        factor = known(layer.since_quarter if small else layer.first_to_last)
        if factor is not None and not 1 / CHANGE < factor < CHANGE:
            far.append((max(factor, 1 / factor), factor, layer))
        jump = known(layer.jump)
        if jump is not None and jump.deviations > OUT_OF_LINE:
            size = jump_size(jump.factor, jump.excess)
            jumps += [(size, jump, layer)] if size > JUMP else []
    if far:
        _, factor, layer = max(far, key=lambda each: each[0])
        fall, verdict = known(layer.effective_rate_fall), layer.invariance.verdict
        consequence = ""
        if fall is not None and fall > 1.0 and layer.first_to_last == factor and verdict != FELT:
            scale = " if it is scale-invariant" if verdict == "untested" else ""
            consequence = f"; its effective learning rate fell {fall:.3g} ×{scale}"
        others = f", and {counted(len(far) - 1, 'more norm')} changed as much" if len(far) > 1 else ""
        yield Finding(
            code="norm-far-from-first",
            severity="warn",
            layer=layer.name,
            message=f"its norm went from {layer.norms[-1] / factor:.3g} to {layer.norms[-1]:.3g} ({factor:.3g} ×)"
            f"{consequence}{others}",
            value=factor,
            limit=CHANGE if factor > 1.0 else 1 / CHANGE,
            hint=GREW if factor > 1.0 else SHRANK,
        )
    if jumps:
        _, jump, layer = max(jumps, key=lambda each: each[0])
        others = f"; so did {counted(len(jumps) - 1, 'more norm')}" if len(jumps) > 1 else ""
        yield Finding(
            code="norm-jumps",
            severity="info",
            layer=layer.name,
            message=f"its norm became {jump.factor:.3g} × as large from step {jump.from_step} to {jump.to_step}, "
            f"out of line with the rest of the run{others}",
            value=jump.factor,
            limit=JUMP if jump.factor > 1.0 else 1 / JUMP,
            hint="Look at the loss between the two: a spike, another rate, or a restart without the optimizer's state.",
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
            severity="info",
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
