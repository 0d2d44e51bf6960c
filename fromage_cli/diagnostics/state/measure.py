"""From a checkpoint with optimizer state to a StateResult; nothing here needs torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

from fromage_cli.checkpoints import Checkpoint, OptimizerState, TensorEntry
from fromage_cli.checkpoints.layers import BUFFERS, layer_entries
from fromage_cli.checkpoints.reading.slots import dtypes_of, scalar
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.result import (
    Epsilon,
    FileState,
    GroupState,
    LayerState,
    Lost,
    StateResult,
    Totals,
    Violations,
)
from fromage_cli.diagnostics.state.subjects import Found, Subject, read_slots, read_tensors, tensor_subjects
from fromage_cli.diagnostics.state.sums import Sums
from fromage_cli.diagnostics.state.unmatched import NOT_KNOWN, slot_subjects
from fromage_cli.diagnostics.state.updates import NO_MOMENTS, NO_RULE, NOT_MATCHED, update_of
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, STEP_UNKNOWN, WEIGHT_DECAY_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.recognition import BESIDE
from fromage_cli.optimizers.rounded_step import LostUpdates
from fromage_cli.optimizers.rule import LION, MOMENTUM, RULES, SGD
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.theory.equilibrium import momentum_gains
from fromage_cli.theory.moment_bounds import noise_size

OF_ADAM = Missing(Why.NOT_DEFINED, "the optimizer keeps no second moments")
NONE_OF_IT = Missing(Why.NOT_DEFINED, "it holds none of the last file's tensors in their shapes")
UNCOUNTED = Missing(Why.NO_STATE, "the optimizer's state does not count its updates")
NO_DECAY = Missing(Why.NOT_DEFINED, "weight decay does not go past the gradient here")
NO_CLOCK = Missing(Why.NO_FORMULA, "what weight decay does under this optimizer depends on the gradients")
NOT_NARROW = Missing(Why.NOT_DEFINED, "its weights are kept in float32, or in a master copy of them")
STILL = Missing(Why.NOTHING_MOVES, "the step changes nothing")
NEVER = Missing(Why.NOTHING_MOVES, "the rate or the weight decay is 0")
NO_MASTER = Missing(Why.NOT_DEFINED, "there is no master copy of the weights")
RATES_UNTOLD = Missing(Why.LEARNING_RATE_UNKNOWN, "the learning rates of the earlier steps are not known")
UNDONE = Missing(Why.HIDDEN_BY_ROUNDING, "rounding undoes the decay of most entries")
MOST = 0.5
"""Share of the entries from which on rounding undoes the decay."""
LEAST_STEP = 1e-6
"""A relative update from which on float32 weights change in digits that 16 bits do not hold."""


def trained_tensors(checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The tensors that an optimizer may have moved, tied ones once."""
    copies = {name for group in checkpoint.tied for name in group[1:]}
    entries = layer_entries(checkpoint, include, exclude, "all")
    return [name for name in entries if name not in copies and not name.endswith(BUFFERS)]


def measure(
    links: Links, state: OptimizerState, advance: Callable[[float, str], None] = lambda elements, doing: None
) -> StateResult:
    """What the states of a run's checkpoints say, and whether each follows from the one before.

    Each is read once, side by side. Raises InputError as reading does.
    """
    places = range(len(links.checkpoints))
    tensors = [tensor_subjects(links, index) for index in places]
    slots = [slot_subjects(links.settings_at(index)) for index in places]
    (found, changes), (of_slots, slot_changes) = (
        read_tensors(links, tensors, advance),
        read_slots(links, slots, advance),
    )
    files = [
        file_of(links, index, {**tensors[index], **slots[index]}, found[index] | of_slots[index]) for index in places
    ]
    last, checkpoint = files[-1], links.checkpoints[-1]
    moving = [
        frozenset(one.name for one in file.layers if (known(one.relative_update) or 0.0) > LEAST_STEP) for file in files
    ]
    lost = known(last.totals.lost)
    decay_lost = lost is not None and (known(lost.decay) or 0.0) > MOST
    return StateResult(
        step=STEP_UNKNOWN if checkpoint.step is None else checkpoint.step,
        optimizer=links.settings.name,
        optimizers=len(state.parts),
        state_step=STEP_UNKNOWN if last.updates is None else int(last.updates),
        totals=last.totals,
        groups=tuple(decay_clocks(state, links, decay_lost=decay_lost)),
        layers=last.layers,
        slots=last.slots,
        steps_differ=tuple(steps_apart(files, links)),
        never_updated=tuple(name for name in links.names if name in links.settings.found[-1].never_updated),
        counts_updates=links.counts_updates,
        files=tuple(
            file.record(one, rate) for file, one, rate in zip(files, links.checkpoints, links.rates.saved, strict=True)
        ),
        continuity=tuple(
            links.continuation(index, changes[index] | slot_changes[index], moving[index]) for index in places[1:]
        ),
        rate_breaks=links.rates.breaks,
    )


@dataclass(frozen=True)
class File:
    """What is known of one checkpoint."""

    layers: tuple[LayerState, ...]
    slots: tuple[LayerState, ...]
    totals: Totals
    updates: float | None
    """The most that a slot counts."""

    def record(self, checkpoint: Checkpoint, rate: float | None) -> FileState:
        """The same in a line."""
        return FileState(
            path=checkpoint.place,
            step=STEP_UNKNOWN if checkpoint.step is None else checkpoint.step,
            updates=STEP_UNKNOWN if self.updates is None else self.updates,
            learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
            relative_update=self.totals.relative_update,
            update_rms=self.totals.update_rms,
            lost=self.totals.lost,
            violations=self.totals.violations,
        )


def file_of(links: Links, index: int, subjects: Mapping[str, Subject], found: Mapping[str, Found]) -> File:
    """One checkpoint from the sums over its tensors and its slots without one."""
    told, checkpoint = links.settings.found[index], links.checkpoints[index]
    has_slots = checkpoint.optimizer is not None and bool(checkpoint.optimizer.slots)
    all_matched = not told.unmatched_slots and (bool(told.slots) or not has_slots)
    layers = tuple(
        layer_of(one, checkpoint.entries[name], found[name], matched=all_matched or name in told.never_updated)
        for name, one in subjects.items()
        if name not in told.numbered
    )
    slots = tuple(slot_of(one, found[name]) for name, one in subjects.items() if name in told.numbered)
    counts = [step for layer in (*layers, *slots) if not isinstance(step := layer.step, Missing)]
    updates = max(counts, default=None)
    return File(layers, slots, totals_of(layers, slots, found, links.settings.optimizer), updates)


def steps_apart(files: Sequence[File], links: Links) -> Iterator[str]:
    """Tensors that count another number of updates than the most of their optimizer.

    One that is as far behind as in an earlier file joined later, and is sound.
    """
    owners = links.settings.found[-1].optimizers
    behind: list[dict[str, float]] = []
    for file in files:
        counts = {one.name: one.step for one in (*file.layers, *file.slots) if not isinstance(one.step, Missing)}
        most: dict[int, float] = {}
        for name, count in counts.items():
            owner = id(owners.get(name))
            most[owner] = max(count, most.get(owner, 0.0))
        behind.append({name: most[id(owners.get(name))] - count for name, count in counts.items()})
    grown = (
        files[-1].updates - files[-2].updates if len(files) > 1 and files[-1].updates and files[-2].updates else None
    )
    for name, lag in behind[-1].items():
        joined = grown is not None and name not in behind[-2] and counts[name] <= grown
        if lag and not joined and not any(one.get(name) == lag for one in behind[:-1]):
            yield name


def slot_of(subject: Subject, found: Found) -> LayerState:
    """What is known of a slot whose tensor is not: all but what takes the weights."""
    entry, rule = TensorEntry(subject.name, subject.dtype, subject.trained.shape), subject.trained.optimizer.rule
    layer = layer_of(subject, entry, found, matched=True)
    unknown = rule is not None and rule.reads_weights and not isinstance(layer.update_rms, Missing)
    return replace(
        layer,
        update_rms=NOT_KNOWN if unknown else layer.update_rms,
        relative_update=NOT_KNOWN,
        decay_share=NOT_KNOWN,
        lost=NOT_KNOWN,
        master_differs=NOT_KNOWN,
    )


def layer_of(subject: Subject, entry: TensorEntry, found: Found, *, matched: bool) -> LayerState:
    """One tensor from its sums; `matched`: whether it is told which moments belong to which tensor."""
    trained, sums, shape, moments = subject.trained, found.sums, entry.shape, subject.moments
    optimizer, rate, decay = trained.optimizer, trained.rate, trained.decay
    update = update_of(trained, sums, matched=matched)
    rms = update.rms
    share: float | Missing = NO_DECAY
    if optimizer.rule is not None and optimizer.rule.decay == "decoupled":
        share = rms
        if not isinstance(rms, Missing) and decay is not None:
            pull, moved = decay * math.sqrt(sums.squares), rms * math.sqrt(sums.entries)
            share = pull / (pull + moved) if pull + moved > 0.0 else 0.0
    step = scalar(trained.slot, "step")
    known_types = {kind for key, kind in dtypes_of(trained.slot).items() if key not in BESIDE}
    damaged = Violations(0, 0, sums.not_finite, False)
    of_adam = OF_ADAM if len(trained.slot) else NO_MOMENTS if matched else NOT_MATCHED
    trained_on = (step is None or step > 1.0) and (known(update.relative) or 0.0) > LEAST_STEP
    return LayerState(
        name=subject.name,
        shape=shape,
        dtype=entry.dtype,
        moments_dtype=", ".join(sorted(known_types)) or None,
        learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
        weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
        step=UNCOUNTED if step is None else step,
        update_rms=rms,
        relative_update=update.relative,
        decay_share=share,
        lost=_lost(found.lost, subject),
        master=subject.master is not None,
        master_differs=found.differing if subject.master is not None else NO_MASTER,
        rounded_to=found.digits.dtype if trained_on else None,
        violations=Violations.of(sums, moments) if moments else damaged if damaged.total else of_adam,
        weights_finite=math.isfinite(sums.squares),
        epsilon=of_adam if moments is None else NO_RULE if optimizer.rule is None else Epsilon.of(sums),
        dead_rows=of_adam if moments is None else (shape[0] if shape else 1) - found.seen.count,
    )


def _lost(found: LostUpdates | None, subject: Subject | None = None) -> Lost | Missing:
    """As shares; missing where weights are kept in float32, or the step is not known."""
    if subject is not None and subject.narrow is None:
        return NOT_NARROW
    if found is None:
        return NO_RULE
    half = found.half_rate
    return Lost(
        entries=found.lost / found.changing if found.changing else STILL,
        magnitude=1.0 - found.survived / found.wanted if found.wanted else STILL,
        half_rate=STILL if half is None else half,
        decay=NO_DECAY if not found.decaying else (found.decay_lost or 0) / found.decaying,
    )


def totals_of(
    layers: Sequence[LayerState], slots: Sequence[LayerState], found: Mapping[str, Found], optimizer: Optimizer
) -> Totals:
    """Over all tensors; the relative step over those whose update is known."""
    sums = {name: one.sums for name, one in found.items()}
    lost = [one.lost for one in found.values() if one.lost is not None]
    both = (*layers, *slots)
    moved = [(rms, sums[one.name].entries) for one in both if not isinstance(rms := one.update_rms, Missing)]
    entries, squares = sum(size for _, size in moved), math.fsum(rms * rms * size for rms, size in moved)
    steps = [
        (step * step * square, square)
        for one, square in ((layer, sums[layer.name].squares) for layer in layers)
        if not isinstance(step := one.relative_update, Missing)
    ]
    steps += steps_of_slots(layers, slots, sums)
    norm = math.sqrt(math.fsum(square for _, square in steps))
    rule, settings = optimizer.rule, optimizer.arguments
    unknown = layers[0] if layers else None
    adams = rule is not None and rule.averages == "betas"
    return Totals(
        tensors=len(layers),
        parameters=sum(sums[one.name].entries for one in layers),
        update_rms=math.sqrt(squares / entries) if entries else NONE_OF_IT if unknown is None else unknown.update_rms,
        relative_update=(
            math.sqrt(math.fsum(step for step, _ in steps)) / norm
            if norm
            else NONE_OF_IT
            if unknown is None
            else unknown.relative_update
        ),
        noise_rms=noise_size(settings["betas"][0]) if adams else 1.0 if rule is LION else OF_ADAM,
        lost=_lost(reduce(add, lost)) if lost else NONE_OF_IT if unknown is None else unknown.lost,
        violations=sum(one.violations.total for one in both if not isinstance(one.violations, Missing)),
    )


def steps_of_slots(
    layers: Sequence[LayerState], slots: Sequence[LayerState], sums: Mapping[str, Sums]
) -> list[tuple[float, float]]:
    """||eta u||^2 of every unmatched slot and ||W||^2 of every tensor that has none, where these are the same tensors.

    Their shapes tell it; which belongs to which does not matter to a sum. Empty where a step is not known.
    """
    without = [layer for layer in layers if layer.relative_update == NOT_MATCHED]
    moved = [
        (rate * rms) ** 2 * sums[slot.name].entries
        for slot in slots
        if (rate := known(slot.learning_rate)) is not None and (rms := known(slot.update_rms)) is not None
    ]
    if len(moved) != len(slots) or Counter(one.shape for one in without) != Counter(one.shape for one in slots):
        return []
    return [*((step, 0.0) for step in moved), *((0.0, sums[one.name].squares) for one in without)]


def decay_clocks(state: OptimizerState, links: Links, *, decay_lost: bool) -> Iterator[GroupState]:
    """Each group with the steps in which its decay acts, and what it has left of the initial weights.

    Decoupled decay takes rate * decay of a weight in a step. Under SGD the momentum multiplies that by its gain.
    `decay_lost`: whether rounding undoes it.
    """
    rules = {number: RULES.get(part.settings.rule or "") for part in state.parts for number in part.numbers}
    whole, (summed, told) = links.rates.saved[-1], links.rates.summed(len(links.checkpoints) - 1)
    for group in state.groups:
        rate, decay = (group.settings.get(name) for name in ("lr", "weight_decay"))
        rate = float(rate) if isinstance(rate, int | float) else None
        decay = float(decay) if isinstance(decay, int | float) else None
        rule = rules[group.numbers[0]] if group.numbers else None
        timescale: float | Missing = NO_CLOCK
        remaining: float | Missing = NO_CLOCK
        if rule is not None and (rule is SGD or rule.decay == "decoupled") and rate is not None and decay is not None:
            own = {**MOMENTUM, **group.settings}
            gains = momentum_gains(own["momentum"], own["dampening"], own["nesterov"])
            gain = decay * (gains.total if rule is SGD else 1.0)
            timescale = 1.0 / (rate * gain) if rate * gain > 0.0 else NEVER
            remaining = RATES_UNTOLD if summed is None else UNDONE if decay_lost and gain > 0.0 else 0.0
            if summed is not None and remaining == 0.0:
                remaining = math.exp(-summed * gain * (rate / whole if whole else 1.0))
        yield GroupState(
            tensors=len(group.numbers),
            learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
            weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
            timescale=timescale,
            remaining=remaining,
            rates_told=told,
        )
