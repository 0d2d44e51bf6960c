"""What the optimizer's state means for the user: codes, limits and words."""

import math
from collections.abc import Iterator
from statistics import median

from fromage_cli.counting import counted
from fromage_cli.diagnostics.state.discontinuities import not_continued, rate_finding
from fromage_cli.diagnostics.state.replicas import replica_findings
from fromage_cli.diagnostics.state.result import LayerState, StateResult
from fromage_cli.diagnostics.state.words import entries
from fromage_cli.findings import Finding, about_names, never_updated
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.words import number

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
SKIPPED = 0.02
"""Share of the steps that a scaler of float16 gradients may skip: the optimizer then counts fewer."""
DAMAGED = "Load another checkpoint, or start the optimizer anew with a warm-up: these moments would misdirect steps."


def judge(result: StateResult) -> tuple[Finding, ...]:
    """The findings of a state, the gravest kinds first."""
    never = [never_updated(result.never_updated)] if result.never_updated else []
    broken = (finding for one in result.continuity for finding in not_continued(one, len(result.layers)))
    rates = map(rate_finding, result.rate_breaks)
    own = (*_impossible(result), *_count(result), *replica_findings(result.replicas))
    grave = (*own, *broken, *rates, *_copies(result), *_rounding(result), *_sizes(result))
    return (*grave, *_small_moments(result), *_decay(result), *never)


def _impossible(result: StateResult) -> Iterator[Finding]:
    """Moments that no gradients can have made, and counts of updates that differ."""
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
            "Check that the whole state was loaded. A group that was reset takes larger first steps: warm it up.",
        )


def _count(result: StateResult) -> Iterator[Finding]:
    """A state that counts other updates than the file's step."""
    step, updates = known(result.step), known(result.state_step)
    before = any(one.restarted or one.counts_differ for one in result.continuity)  # which says more
    if step is not None and updates is not None and not before and not counts_agree(step, updates):
        yield Finding(
            "update-count-not-the-files",
            "warn",
            f"the optimizer counts {number(updates)} updates, and the file says step {number(step)}",
            value=float(updates),
            limit=float(step),
            hint="The state is from another step, or the optimizer was started anew. "
            "Take the state that was saved at this step; without one, resume with a warm-up.",
        )


def counts_agree(step: int, updates: int) -> bool:
    """Whether a training step goes with so many updates: nearly equal, a few skipped, or one so many of the other.

    Steps may be batches of which several make an update, or epochs of several updates.
    """
    fewer, more = sorted((step, updates))
    return more - fewer <= 1 or (1.0 - SKIPPED) * step <= updates <= step or (fewer > 0 and more % fewer == 0)


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
            f"the float32 weights of {counted(len(widened), 'tensor')} hold only {dtype} values",
            "They were rebuilt from a rounded copy, and small updates are lost at every such resume. "
            "Save and load the float32 weights themselves.",
        )


def _rounding(result: StateResult) -> Iterator[Finding]:
    """Steps that weights in 16 bits lose."""
    lost = known(result.totals.lost)
    if lost is None:
        return
    magnitude, decay, half = known(lost.magnitude), known(lost.decay), known(lost.half_rate)
    if magnitude is not None and magnitude > LOST:
        below = "" if half is None else f" Below a rate of {number(half)} most entries stay as they are."
        yield Finding(
            "updates-lost",
            "warn",
            f"rounding of the 16-bit weights loses {number(100.0 * magnitude)} % of the last update",
            value=magnitude,
            limit=LOST,
            hint=f"Keep a float32 master copy of the weights, or round stochastically.{below}",
        )
    if decay is not None and decay > LOST:
        yield Finding(
            "decay-lost",
            "warn",
            f"rounding loses weight decay on {number(100.0 * decay)} % of the entries",
            value=decay,
            limit=LOST,
            hint="In bfloat16 a rate times weight decay below 1/512 changes nothing. Keep a float32 master copy.",
        )


def _sizes(result: StateResult) -> Iterator[Finding]:
    """Layers that move far more or less than the others, or not at all."""
    moved = {one.name: step for one in matrices(result) if (step := known(one.relative_update)) is not None}
    above = [step for step in moved.values() if step > 0.0]
    still = [name for name, step in moved.items() if step == 0.0]
    if still and above:
        yield about_names(
            "layer-does-not-move",
            "warn",
            still,
            f"the last update of {counted(len(still), 'layer')} is 0",
            "Look for a frozen layer, a unit that is never active, or a rate of 0.",
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
        elif left is not None and left > HARDLY and math.isfinite(clock):
            yield Finding(
                "decay-hardly-acts",
                "info",
                f"in group {place} weight decay has taken {number(100.0 * (1.0 - left))} % of the first weights so far",
                value=left,
                limit=HARDLY,
                hint=f"It acts within {number(clock)} steps at this rate.",
            )


def unknown_updates(result: StateResult) -> str | None:
    """Why no layer's update is known; None where one is."""
    reasons = [one.relative_update for one in result.layers]
    words = [one.words for one in reasons if isinstance(one, Missing)]
    known_sizes = any(known(one.update_rms) is not None for one in (*result.layers, *result.slots))
    return words[0] if words and len(words) == len(reasons) and not known_sizes else None
