"""What the growth of norms means for the user: codes, limits and words."""

import math
from collections.abc import Iterator, Sequence

from fromage_cli.checkpoints.layers import is_lookup_table
from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.growing import SCALE_DEPENDENT, doubling
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.findings import Finding, layers_unchanged, never_updated, weights_out_of_line
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.words import OPTIMIZER_TITLES, number
from fromage_cli.theory.growth import is_drift
from fromage_cli.theory.siblings import WEIGHT_FACTOR, OutOfLine, odd_weights

REMEDY = "To stop the growth, decay the weights, bound their norm, or divide each update by √(1+η²) (as Fromage does)."
DECAYED = (
    "Weight decay slows this down until the norm settles; intrinsic-lr tells where and when. To hold the norm at once, "
    "bound it, or divide each update by √(1+η²) (as Fromage does)."
)
"""Where the optimizer decays the weights already."""
GREW = "Lower the learning rate, warm it up for longer, decay the weights, or bound their norm."
SHRANK = (
    "Lower the weight decay or the learning rate: together they shrink the weights faster than the gradient grows them."
)
NEAR = 0.1
"""Relative distance within which growth is as predicted: momentum and a finite step leave a few per cent."""
DOUBLING = 10.0
"""Growth of an invariant layer is a finding when its norm doubles within so many times the series' length."""
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
"""Mean size of a row below which a layer counts as one that begins at zero, as new branches do. It first grows to its
size. Linear layers of torch begin at .58."""
UNEVEN = 0.1
"""Share of a layer's rows that may be zero: a few tokens that never occur are no news."""


def judge(result: NormsResult) -> tuple[Finding, ...]:
    """The findings of a series of norms, the gravest kinds first."""
    never = [layer.name for layer in result.layers if layer.never_updated]
    same = [layer.name for layer in result.layers if layer.unchanged]
    frozen = [never_updated(never)] if never else []
    frozen += [layers_unchanged(same, len(result.layers), len(result.steps))] if same else []
    return (
        *_not_finite(result),
        *_changes(result),
        *(weights_out_of_line(one.name, one.factor, WEIGHT_FACTOR) for one in _out_of_line(result)),
        *_growth(result),
        *_parts_without_effect(result),
        *frozen,
    )


def _out_of_line(result: NormsResult) -> tuple[OutOfLine, ...]:
    """The matrices of the last checkpoint that differ from their siblings."""
    matrices = [
        one
        for one in result.layers
        if len(one.shape) > 1 and math.isfinite(one.norms[-1]) and not is_lookup_table(one.name, one.kind)
    ]
    return odd_weights(
        {one.name: (one.kind, one.shape) for one in matrices},
        {one.name: one.norms[-1] / math.sqrt(one.parameters) for one in matrices},
    )


def span(result: NormsResult) -> tuple[int, int]:
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
                hint="Go back to the last checkpoint before that. inspect counts the entries that are not finite.",
            )
    end, length = span(result)
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
                message=f"at this growth its largest entry overflows {layer.dtype} at step {step:.0f}{epoch}",
                value=step,
                limit=limit,
                hint=REMEDY,
            )


def begins_small(name: str, kind: str | None, shape: Sequence[int], first: float) -> bool:
    """Whether a layer starts far below its size: its norm is then judged from a quarter of the run on.

    Lookup tables begin small as well, and grow by up to 14 times in healthy runs.
    """
    table = is_lookup_table(name, kind)
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
        normalised = verdict not in (SCALE_DEPENDENT, "untested")
        if fall is not None and fall > 1.0 and layer.first_to_last == factor and normalised:
            consequence = f"; its effective learning rate fell {fall:.3g} ×"
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
            f"unlike the rest of the run{others}",
            value=jump.factor,
            limit=JUMP if jump.factor > 1.0 else 1 / JUMP,
            hint="Look at the loss between the two steps. Usual causes: a spike, another learning rate, or a restart "
            "without the optimizer's state.",
        )


def in_steps(result: NormsResult, steps: float) -> str:
    """So many steps, and how many epochs that is where their length is known."""
    epochs = f" ({steps / result.steps_per_epoch:.0f} epochs)" if result.steps_per_epoch else ""
    return f"{number(steps)} steps{epochs}"


def decays(result: NormsResult) -> bool:
    """Whether the weights decay."""
    return bool(known(result.weight_decay))


def remedy(result: NormsResult) -> str:
    """What to do about a scale-invariant layer that grows."""
    return DECAYED if decays(result) else REMEDY


def _as_predicted(layer: LayerNorms) -> bool:
    """Whether it grows as a scale-invariant layer does under this optimizer."""
    growth, predicted = known(layer.growth_per_step), known(layer.predicted_growth)
    if growth is None or predicted is None or predicted <= 0.0:
        return False
    return abs(growth - predicted) <= NEAR * predicted


def as_it_must(result: NormsResult, layer: LayerNorms) -> str:
    """How the growth of a scale-invariant layer compares to what its optimizer makes of it."""
    predicted = known(layer.predicted_growth)
    if predicted is None or predicted <= 0.0:
        return " at this pace" if decays(result) else ""
    title = OPTIMIZER_TITLES.get(result.optimizer or "", "the optimizer")
    without = f"{title} {'with' if decays(result) else 'without'} weight decay"
    if _as_predicted(layer):
        return f", as {without} must"
    return f"; theory has {number(math.log(2) / predicted)} for {without}"


def _growth(result: NormsResult) -> Iterator[Finding]:
    """Scale-invariant layers that grow; and those not tested that grow as such layers do."""
    end, length = span(result)
    growing = [
        layer
        for layer in result.layers
        if layer.invariance.verdict != SCALE_DEPENDENT
        and (growth := known(layer.growth_per_step)) is not None
        and is_drift(growth, known(layer.growth_stderr), len(layer.norms))
    ]
    for layer in sorted(growing, key=doubling):
        verdict, untested = layer.invariance.verdict, layer.invariance.verdict == "untested"
        if not (_as_predicted(layer) if untested else doubling(layer) <= DOUBLING * length):
            continue
        invariant = f"scale-invariant{'' if verdict == 'invariant' else f' ({verdict})'}, and "
        halved, consequence = known(layer.halved_step), ""
        if halved is not None:
            verb = "halved" if halved <= end else "will have halved"
            consequence = f"; its effective learning rate {verb} by step {halved:.0f}"
        yield Finding(
            code="norm-follows-law" if untested else "invariant-layer-grows",
            severity="info",
            layer=layer.name,
            message=f"{'' if untested else invariant}the norm doubles every {in_steps(result, doubling(layer))}"
            f"{', as a scale-invariant one would' if untested else as_it_must(result, layer)}{consequence}",
            value=known(layer.growth_per_step),
            limit=known(layer.predicted_growth),
            hint=remedy(result),
        )


def _parts_without_effect(result: NormsResult) -> Iterator[Finding]:
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
                hint="Likely pruned channels, or tokens that never occur.",
            )
    for layer in result.layers:
        if layer.dead_bias:
            yield Finding(
                code="bias-dead",
                severity="info",
                layer=layer.name,
                message="its bias does nothing: what follows cancels it, and its gradient is only rounding",
                hint="Leave the bias out before a norm over batch or positions, and before attention's keys.",
            )
