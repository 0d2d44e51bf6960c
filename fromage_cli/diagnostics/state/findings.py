"""What the optimizer's state means for the user: codes, limits and words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median

from fromage_cli.counting import counted
from fromage_cli.diagnostics.state.continuity import SKIPPED
from fromage_cli.diagnostics.state.discontinuities import not_continued, rate_finding, short_name, unmoved
from fromage_cli.diagnostics.state.replicas import replica_findings
from fromage_cli.diagnostics.state.result import FileState, LayerState, StateResult
from fromage_cli.diagnostics.state.words import entries
from fromage_cli.findings import Finding, about_names, never_updated
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.recognition import ADAM_ALIKE
from fromage_cli.terminal.words import number
from fromage_cli.theory.growth import drift, is_drift, steps_until

LOST = 0.5
"""Share of the update, or of the entries that decay should change, from which on rounding decides training."""
APART = 30.0
"""Factor between a layer's relative update and the median, from which on it is named."""
EPS_DECIDES = 0.5
"""Share of the entries below eps from which on a tensor's step is not Adam's."""
FEW_STEPS = 300.0
"""Steps of decay's clock below which the run forgets its weights within a short time."""
HARDLY = 0.95
"""Share of the initial weights from which on decay has hardly acted."""
FEW_SKIPPED = 16.0
"""Steps that a scaler of float16 gradients may skip in any run: the optimizer then counts fewer."""
NEARLY = 0.15
"""Part of one by which a multiple may be missed: batches at the end of an epoch are fewer."""
AHEAD = 1.0
"""Lost updates are told up to so many times the length of the series ahead."""
RATES_APART = 10.0
"""Factor between learning rates of two parameter groups from which on it is said; it may be meant so."""
FEWEST_FILES = 3
"""Checkpoints from which on a trend is told."""
MOSTLY_LOST = 0.9
"""Share of the entries that a step leaves as they are, from which on rounding keeps a tensor still."""
WIDER = "Keep the weights in float32 and train under autocast, or round stochastically."
ALIKE = "The file does not name the optimizer. It may keep other averages than Adam's."
DAMAGED = "Load another checkpoint, or start the optimizer anew with a warm-up: these moments would misdirect steps."


def judge(result: StateResult) -> tuple[Finding, ...]:
    """The findings of a state, the gravest kinds first.

    Of an optimizer that only looks like Adam, moments that Adam cannot have are no warning.
    """
    found = _judge(result)
    if result.optimizer != ADAM_ALIKE:
        return found
    return tuple(one if one.code != "moments-impossible" else softened(one) for one in found)


def softened(finding: Finding) -> Finding:
    """The same of an optimizer that may keep other averages."""
    return replace(finding, severity="info", hint=ALIKE)


def _judge(result: StateResult) -> tuple[Finding, ...]:
    """The same, were the optimizer known."""
    never = [never_updated(result.never_updated)] if result.never_updated else []
    narrow = frozenset(
        one.name for one in result.layers if (lost := known(one.lost)) and (known(lost.entries) or 0.0) > MOSTLY_LOST
    )
    broken = (
        *(finding for one in result.continuity for finding in not_continued(one)),
        *unmoved(result.continuity, len(result.layers), narrow),
    )
    rates = map(rate_finding, result.rate_breaks)
    own = (*_impossible(result), *_count(result), *replica_findings(result.replicas))
    earlier = _impossible_before(result)
    grave = (*own, *earlier, *broken, *rates, *_copies(result), *_rounding(result), *_sizes(result))
    return (*grave, *_group_rates(result), *_small_moments(result), *_decay(result), *never)


def _group_rates(result: StateResult) -> Iterator[Finding]:
    """Parameter groups whose learning rates are far apart."""
    rates = {place: rate for place, one in enumerate(result.groups) if (rate := known(one.learning_rate))}
    usual = max(rates, key=lambda place: result.groups[place].tensors, default=0)
    for place, rate in rates.items():
        times = rate / rates[usual]
        if not 1.0 / RATES_APART < times < RATES_APART:
            yield Finding(
                code="group-rates-differ",
                severity="info",
                message=f"group {place} ({counted(result.groups[place].tensors, 'tensor')}) trains at {number(rate)}, "
                f"{number(times)} × the rate of group {usual} ({counted(result.groups[usual].tensors, 'tensor')})",
                value=times,
                limit=RATES_APART if times > 1.0 else 1.0 / RATES_APART,
                hint="If that is not on purpose, give both groups one rate.",
            )


def _impossible(result: StateResult) -> Iterator[Finding]:
    """Weights and moments that are not finite, moments that no gradients can have made, and counts that differ."""
    for layer in result.layers:
        if not layer.weights_finite:
            yield Finding(
                "tensor-not-finite",
                "fail",
                "the weights hold entries that are NaN or infinite, or whose squares overflow",
                layer=layer.name,
                hint="Load an earlier checkpoint. fromage-diag inspect counts the entries.",
            )
    for layer in (*result.layers, *result.slots):
        found = known(layer.violations)
        if found is None or not found.total:
            continue
        if found.not_finite:
            yield Finding(
                "moments-not-finite",
                "fail",
                f"the moments hold {entries(found.not_finite)} that are NaN or infinite",
                layer=layer.name,
                value=float(found.not_finite),
                limit=0.0,
                hint=DAMAGED,
            )
        if beyond := found.bound + found.negative:
            yield Finding(
                "moments-impossible",
                "warn",
                f"{entries(beyond)} of the moments cannot come from any gradients",
                layer=layer.name,
                value=float(beyond),
                limit=0.0,
                hint=f"The state is damaged, or was mixed up with another layer's or run's. {DAMAGED}",
            )
        if found.vanished:
            yield Finding(
                "moments-impossible",
                "warn",
                "the first moment is 0 in every entry, and the second moment is not",
                layer=layer.name,
                value=1.0,
                limit=0.0,
                hint=f"The first moment was reset. {DAMAGED}",
            )
    if result.steps_differ:
        usual = known(result.state_step)
        yield about_names(
            "update-counts-differ",
            "warn",
            result.steps_differ,
            f"{counted(len(result.steps_differ), 'tensor')} counted another number of updates than {number(usual)}",
            "Usual for layers that joined later or had no gradient at times. Else a group was reset: load its state.",
        )


def _impossible_before(result: StateResult) -> Iterator[Finding]:
    """Moments in earlier checkpoints that no gradients can have made."""
    for one in result.files[:-1]:
        if one.violations:
            yield Finding(
                "moments-impossible",
                "warn",
                f"{entries(one.violations)} of the moments in {short_name(one.path)} cannot come from any gradients",
                value=float(one.violations),
                limit=0.0,
                hint=f"That file is damaged, or mixed up with another. {DAMAGED}",
            )


def _count(result: StateResult) -> Iterator[Finding]:
    """A state that counts other updates than the file's step."""
    step, updates = known(result.step), known(result.state_step)
    before = any(one.restarted or one.counts_differ for one in result.continuity)  # which says more
    before = before or result.optimizers > 1  # each counts its own
    if step is None or updates is None or before or counts_agree(step, updates):
        return
    said = f"the optimizer counts {number(updates)} updates, and the file says step {number(step)}"
    if not result.counts_updates and is_multiple(step, updates):
        yield Finding(
            "update-count-not-the-files",
            "info",
            said,
            value=float(updates),
            limit=float(step),
            hint="Usual with gradient accumulation, and where steps are epochs. Else the optimizer was started anew.",
        )
    else:
        yield Finding(
            "update-count-not-the-files",
            "warn",
            said,
            value=float(updates),
            limit=float(step),
            hint="The state is from another step, or the optimizer was started anew. "
            "Take the state that was saved at this step; without one, resume with a warm-up.",
        )


def counts_agree(step: int, updates: int) -> bool:
    """Whether a training step goes with so many updates: equal but for a few that float16's scaler skipped."""
    skipped = step - updates
    return abs(skipped) <= 1 or (0 < skipped <= max(SKIPPED * step, FEW_SKIPPED) and 2 * updates > step)


def is_multiple(step: int, updates: int) -> bool:
    """Whether one is so many of the other: steps may be batches of which several make an update, or epochs."""
    fewer, more = sorted((step, updates))
    return fewer > 0 and abs(more / fewer - round(more / fewer)) <= NEARLY


def _copies(result: StateResult) -> Iterator[Finding]:
    """Master copies that are not those of the weights, or that were rounded themselves."""
    differ = {one.name: count for one in result.layers if (count := known(one.master_differs))}
    if differ:
        yield about_names(
            "master-differs",
            "warn",
            list(differ),
            f"{entries(sum(differ.values()))} of the 16-bit weights are not the rounded master copy, "
            f"in {counted(len(differ), 'tensor')}",
            "Weights and state are from different steps, or the weights were changed since. "
            "Round the weights from the master copy again, or start the optimizer anew.",
            limit=0.0,
        )
    if widened := {one.name: one.rounded_to for one in result.layers if one.rounded_to is not None}:
        dtype = next(iter(widened.values()))
        yield about_names(
            "master-rebuilt",
            "warn",
            list(widened),
            f"the float32 values of {counted(len(widened), 'tensor')} are all {dtype} ones",
            "They were rebuilt from a rounded copy, and small updates are lost at every such resume. "
            "Save and load the float32 weights themselves.",
        )


def _rounding(result: StateResult) -> Iterator[Finding]:
    """Steps that weights in 16 bits lose: in the last checkpoint whose step moves anything."""
    losses = [(one, lost) for one in result.files if (lost := known(one.lost)) is not None]
    file, lost = next((pair for pair in reversed(losses) if known(pair[1].magnitude) is not None), (None, None))
    if file is None or lost is None:
        return
    magnitude, decay, half = known(lost.magnitude), known(lost.decay), known(lost.half_rate)
    where = "" if file is result.files[-1] else f" of {short_name(file.path)}"
    if magnitude is not None and magnitude > LOST:
        below = "" if half is None else f" Below a rate of {number(half)} most entries stay as they are."
        yield Finding(
            "updates-lost",
            "warn",
            f"rounding of the 16-bit weights loses {number(100.0 * magnitude)} % of the last update{where}",
            value=magnitude,
            limit=LOST,
            hint=f"{WIDER}{below}",
        )
    elif (step := losing_step(result.files)) is not None:
        yield Finding(
            "updates-lost-ahead",
            "info",
            f"if the run goes on as before, 16-bit rounding undoes most updates from step {number(step)} on",
            value=step,
            hint=WIDER,
        )
    if decay is not None and decay > LOST:
        yield Finding(
            "decay-lost",
            "warn",
            f"rounding undoes weight decay on {number(100.0 * decay)} % of the entries{where}",
            value=decay,
            limit=LOST,
            hint="In bfloat16 a rate times weight decay below 1/512 changes nothing. Keep the weights in float32.",
        )


def losing_step(files: Sequence[FileState]) -> float | None:
    """The step at which the rate meets that below which most updates are lost, if both go on as before.

    None where they do not draw nearer steadily, or not within AHEAD times the length of the series.
    """
    told = [(known(one.step), known(one.learning_rate), known(one.lost)) for one in files]
    pairs = [
        (step, half / rate)
        for step, rate, lost in told
        if step is not None and rate and lost is not None and (half := known(lost.half_rate))
    ]
    if len(pairs) < FEWEST_FILES or known(files[-1].step) != pairs[-1][0]:
        return None
    steps = [step for step, _ in pairs]
    growth, error = drift(steps, [math.log(share) for _, share in pairs])
    left = steps_until(pairs[-1][1], 1.0, growth) if is_drift(growth, error, len(pairs)) else None
    return steps[-1] + left if left is not None and left <= AHEAD * (steps[-1] - steps[0]) else None


def _sizes(result: StateResult) -> Iterator[Finding]:
    """Layers that move far more or less than the others, or not at all."""
    moved = {one.name: step for one in matrices(result) if (step := known(one.relative_update)) is not None}
    above = [step for step in moved.values() if step > 0.0]
    rates = {one.name: known(one.learning_rate) for one in matrices(result)}
    still = [name for name, step in moved.items() if step == 0.0 and rates[name] != 0.0]
    if still and above:
        yield about_names(
            "layer-does-not-move",
            "warn",
            still,
            f"the last update of {counted(len(still), 'layer')} is 0",
            "Look for a frozen layer, or a unit that is never active.",
        )
    middle = median(above) if above else 1.0
    more = [name for name, step in moved.items() if step > APART * middle]
    less = [name for name, step in moved.items() if 0.0 < step < middle / APART]
    for words, far, limit in (("more", more, APART * middle), ("less", less, middle / APART)):
        if far:
            verb = "moves" if len(far) == 1 else "move"
            yield about_names(
                f"layer-moves-{words}",
                "info",
                far,
                f"{counted(len(far), 'layer')} {verb} {number(APART)} times {words} than the median layer",
                "Look at the size of the weights, and at the rate of their group.",
                limit=limit,
            )


def matrices(result: StateResult) -> list[LayerState]:
    """The tensors of two or more dimensions."""
    return [layer for layer in result.layers if len(layer.shape) > 1]


def _small_moments(result: StateResult) -> Iterator[Finding]:
    """Tensors whose step eps decides, and rows without a gradient."""
    both = (*result.layers, *result.slots)
    small = [one.name for one in both if (found := known(one.epsilon)) is not None and found.entries > EPS_DECIDES]
    if small:
        yield about_names(
            "eps-decides",
            "info",
            small,
            f"eps is larger than the root of v in most entries of {counted(len(small), 'tensor')}",
            "Their steps are as large as their gradients. Lower eps for steps of Adam's size.",
            limit=EPS_DECIDES,
        )
    dead = {one.name: rows for one in both if len(one.shape) > 1 and (rows := known(one.dead_rows))}
    if dead:
        yield about_names(
            "rows-without-gradient",
            "info",
            list(dead),
            f"{counted(sum(dead.values()), 'row')} never had a gradient, in {counted(len(dead), 'layer')}",
            "In an embedding these are tokens that never occurred, elsewhere units that are never active.",
            limit=0.0,
        )


def _decay(result: StateResult) -> Iterator[Finding]:
    """Weight decay that has hardly acted, or that forgets fast."""
    for place, group in enumerate(result.groups):
        clock, left = known(group.timescale), known(group.remaining)
        if clock is None:
            continue
        if clock < FEW_STEPS:
            yield Finding(
                "decay-forgets-fast",
                "info",
                f"in group {place} weight decay replaces the weights within {number(clock)} steps",
                value=clock,
                limit=FEW_STEPS,
                hint="Lower the rate or the weight decay, if the run is longer than that.",
            )
        elif left is not None and left > HARDLY and math.isfinite(clock) and group.rates_told:
            yield Finding(
                "decay-hardly-acts",
                "info",
                f"in group {place} weight decay has taken {number(100.0 * (1.0 - left))} % of the first weights so far",
                value=left,
                limit=HARDLY,
                hint=f"At the saved rate it takes {number(clock)} steps to replace most of the weights.",
            )


def unknown_updates(result: StateResult) -> str | None:
    """Why no layer's update is known; None where one is."""
    reasons = [one.relative_update for one in result.layers]
    words = [one.words for one in reasons if isinstance(one, Missing)]
    known_sizes = any(known(one.update_rms) is not None for one in (*result.layers, *result.slots))
    return words[0] if words and len(words) == len(reasons) and not known_sizes else None
