"""From a checkpoint with optimizer state to a StateResult; nothing here needs torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from fromage_cli.checkpoints import Checkpoint, OptimizerState, TensorEntry
from fromage_cli.checkpoints.layers import BUFFERS, layer_entries
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.slots import Part, dtypes_of, over_series, scalar, shaped_like
from fromage_cli.checkpoints.runs.layer_settings import RunSettings
from fromage_cli.diagnostics.state.changes import Changes
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.digits import Digits, count_differing
from fromage_cli.diagnostics.state.result import (
    Epsilon,
    GroupState,
    LayerState,
    Lost,
    StateResult,
    Totals,
    Violations,
)
from fromage_cli.diagnostics.state.sums import Moments, Seen, Summation, Sums
from fromage_cli.diagnostics.state.updates import NO_RULE, Trained, update_of
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, STEP_UNKNOWN, WEIGHT_DECAY_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.recognition import ADAFACTOR_OF_TRANSFORMERS, COPIES, MEANS_OF_ADAM
from fromage_cli.optimizers.rounded_step import Dtype, LostUpdates, lost_updates, rounded
from fromage_cli.optimizers.rule import LION, MOMENTUM, RULES, SGD
from fromage_cli.optimizers.settings import MANY_STEPS, Optimizer, corrects_bias
from fromage_cli.optimizers.streamed import saved_update
from fromage_cli.theory.equilibrium import momentum_gains
from fromage_cli.theory.moment_bounds import noise_size

OF_ADAM = Missing(Why.NOT_DEFINED, "the optimizer keeps no second moments")
NO_DECAY = Missing(Why.NOT_DEFINED, "weight decay does not go past the gradient here")
NO_CLOCK = Missing(Why.NO_FORMULA, "what weight decay does under this optimizer depends on the gradients")
NOT_NARROW = Missing(Why.NOT_DEFINED, "its weights are kept in float32, or in a master copy of them")
STILL = Missing(Why.NOTHING_MOVES, "the step changes nothing")
NEVER = Missing(Why.NOTHING_MOVES, "the rate or the weight decay is 0")
NO_MASTER = Missing(Why.NOT_DEFINED, "there is no master copy of the weights")
NARROW = ("bfloat16", "float16")
LEAST_STEP = 1e-6
"""A relative update from which on float32 weights change in digits that 16 bits do not hold."""
ADAMS = ("exp_avg", "exp_avg_sq")


def trained_tensors(checkpoint: Checkpoint, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The tensors that an optimizer may have moved, tied ones once."""
    copies = {name for group in checkpoint.tied for name in group[1:]}
    entries = layer_entries(checkpoint, include, exclude, "all")
    return [name for name in entries if name not in copies and not name.endswith(BUFFERS)]


@dataclass(frozen=True)
class _Found:
    """What is known of some parts of a tensor."""

    sums: Sums = field(default_factory=Sums)
    seen: Seen = field(default_factory=Seen)
    lost: LostUpdates | None = None
    differing: int = 0
    """Entries of the stored weight that are not the rounded master."""
    digits: Digits = field(default_factory=Digits)

    def joined(self, other: _Found) -> _Found:
        """With the next part."""
        lost = other.lost if self.lost is None else self.lost if other.lost is None else self.lost + other.lost
        digits = self.digits.joined(other.digits)
        return _Found(
            self.sums + other.sums, self.seen.joined(other.seen), lost, self.differing + other.differing, digits
        )


@dataclass(frozen=True)
class _Subject:
    """One tensor, and how it is trained."""

    name: str
    dtype: str
    """Of the stored weights."""
    length: int
    """Entries of a row along the first dimension."""
    trained: Trained
    moments: Moments | None
    """Of Adam's kind; None without."""
    settings: Mapping[str, Any]
    """Of its group, by the names of the class that steps."""
    narrow: Dtype | None
    """The dtype of weights that each step rounds; None where they are kept in more digits."""
    master: str | None
    """The slot with the float32 copy of the weights, on which steps are measured; None without."""

    def work(self, summation: Summation, part: Part) -> _Found:
        """What one part of it adds."""
        arrays, rule, slot = dict(part.arrays), self.trained.optimizer.rule, self.trained.slot
        seen, lost, differing, digits = Seen(), None, 0, Digits()
        if self.master is not None:
            stored, arrays["weight"] = arrays["weight"], arrays.pop(self.master)
            differing = count_differing(rounded(arrays["weight"], narrowest(self.dtype)), stored)
        if self.master is not None or self.dtype == "float32":
            digits = Digits.of(arrays["weight"])
        if self.moments is not None:
            sums = summation.adam(arrays, self.moments)
            seen = Seen.of(arrays["exp_avg_sq"], part.begin, self.length)
        else:
            sums = summation.memory(arrays, self._made_in_parts(arrays))
        if self.narrow is not None and rule is not None and "lr" in self.settings:
            memory = {**arrays, "step": scalar(slot, "step") or MANY_STEPS}
            kept = next((kind for key, kind in dtypes_of(slot).items() if key in arrays), self.narrow)
            lost = lost_updates(rule, memory, arrays["weight"], self.settings, self.narrow, moments=narrowest(kept))
        return _Found(sums, seen, lost, differing, digits)

    def _made_in_parts(self, arrays: Mapping[str, Any]) -> Any:
        """The update of one part; None where it takes the whole tensor, or more than the state."""
        rule = self.trained.optimizer.rule
        if self.trained.kind == ADAFACTOR_OF_TRANSFORMERS:
            return arrays.get("exp_avg")
        if rule is None or rule.matrices_only or rule.decay == "rescaled":
            return None
        return saved_update(rule, arrays, arrays["weight"], self.trained.optimizer.arguments)


def measure(
    links: Links, state: OptimizerState, advance: Callable[[float, str], None] = lambda elements, doing: None
) -> StateResult:
    """What the state of the last of several checkpoints says, and whether it follows from those before.

    Each is read once, side by side. Raises InputError as reading does.
    """
    checkpoints, names, settings = links.checkpoints, links.names, links.settings
    checkpoint = checkpoints[-1]
    told, entries, last = settings.found[-1], checkpoint.entries, len(checkpoints) - 1
    subjects = {name: subject_of(entries[name], told.slots.get(name, {}), settings) for name in names}
    found = dict.fromkeys(names, _Found())
    changes = [dict.fromkeys(names, Changes()) for _ in checkpoints]

    def work(summation: Summation, index: int, part: Part, before: Part | None) -> tuple[_Found, Changes]:
        own = subjects[part.name].work(summation, part) if index == last else _Found()
        return own, links.changes(index, part, before)

    slots = [{name: one.slots.get(name, {}) for name in names} for one in settings.found]
    for index, place, (more, changed) in over_series(checkpoints, slots, work, lambda: Summation(CHUNK), advance):
        found[place.name] = found[place.name].joined(more)
        changes[index][place.name] += changed
    matched = bool(told.slots) or not state.slots
    layers = tuple(layer_of(subjects[name], entries[name], found[name], matched=matched) for name in names)
    counts = Counter(step for layer in layers if not isinstance(step := layer.step, Missing))
    usual = counts.most_common(1)[0][0] if counts else None
    moving = frozenset(one.name for one in layers if (known(one.relative_update) or 0.0) > LEAST_STEP)
    return StateResult(
        step=STEP_UNKNOWN if checkpoint.step is None else checkpoint.step,
        optimizer=settings.name,
        state_step=STEP_UNKNOWN if usual is None else int(usual),
        totals=totals_of(layers, found, settings.optimizer),
        groups=tuple(decay_clocks(state, checkpoint.step if usual is None else usual)),
        layers=layers,
        steps_differ=tuple(one.name for one in layers if not isinstance(one.step, Missing) and one.step != usual),
        never_updated=tuple(name for name in names if name in told.never_updated),
        continuity=tuple(links.continuation(index, changes[index], moving) for index in range(1, last + 1)),
        rate_breaks=links.rates.breaks,
    )


def narrowest(dtype: str) -> Dtype:
    """The dtype in which arithmetic on stored moments is rounded."""
    return "bfloat16" if dtype == "bfloat16" else "float16" if dtype == "float16" else "float32"


def subject_of(entry: TensorEntry, slot: Mapping[str, Any], settings: RunSettings) -> _Subject:
    """One tensor with the settings of its group."""
    name, told = entry.name, settings.found[-1]
    optimizer, own, moments = settings.optimizer_of(name), told.of(name), None
    kind = told.optimizers[name].kind if name in told.optimizers else settings.name
    trained = Trained(entry.shape, optimizer, kind, slot, own, settings.rates(name)[-1], settings.decay(name))
    rule, arguments = optimizer.rule, optimizer.arguments
    if all(key in slot for key in ADAMS) and (kind in MEANS_OF_ADAM if rule is None else rule.averages == "betas"):
        beta1, beta2 = arguments.get("betas") or own.get("betas") or (0.9, 0.999)
        steps, stored = scalar(slot, "step") or MANY_STEPS, dtypes_of(slot)["exp_avg_sq"]
        moments = Moments(beta1, beta2, float(arguments.get("eps") or 0.0), steps, stored, corrects_bias(own))
    kernels = {key: value for key, value in own.items() if key in ("foreach", "fused")}
    rate = {} if trained.rate is None else {"lr": trained.rate}
    narrow = narrowest(entry.dtype) if entry.dtype in NARROW and not COPIES.intersection(slot) else None
    length = max(entry.elements // max(entry.shape[0] if entry.shape else 1, 1), 1)
    steps_by = {**kernels, **arguments, "weight_decay": trained.decay or 0.0, **rate}
    return _Subject(name, entry.dtype, length, trained, moments, steps_by, narrow, master_of(slot, entry))


def master_of(slot: Mapping[str, Any], entry: TensorEntry) -> str | None:
    """The slot that holds the float32 copy of weights in 16 bits; None without."""
    found = shaped_like(slot, entry.shape) if entry.dtype in NARROW else {}
    return next((key for key in found if key in COPIES and dtypes_of(slot)[key] == "float32"), None)


def layer_of(subject: _Subject, entry: TensorEntry, found: _Found, *, matched: bool) -> LayerState:
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
    known_types = {kind for key, kind in dtypes_of(trained.slot).items() if key != "step"}
    damaged = Violations(0, 0, sums.not_finite, False)
    trained_on = (step is None or step > 1.0) and (known(update.relative) or 0.0) > LEAST_STEP
    return LayerState(
        name=subject.name,
        shape=shape,
        dtype=entry.dtype,
        moments_dtype=", ".join(sorted(known_types)) or None,
        learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
        weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
        step=STEP_UNKNOWN if step is None else step,
        update_rms=rms,
        relative_update=update.relative,
        decay_share=share,
        lost=_lost(found.lost, subject),
        master=subject.master is not None,
        master_differs=found.differing if subject.master is not None else NO_MASTER,
        rounded_to=found.digits.dtype if trained_on else None,
        violations=Violations.of(sums, moments) if moments else damaged if damaged.total else OF_ADAM,
        epsilon=OF_ADAM if moments is None else NO_RULE if optimizer.rule is None else Epsilon.of(sums),
        dead_rows=OF_ADAM if moments is None else (shape[0] if shape else 1) - found.seen.count,
    )


def _lost(found: LostUpdates | None, subject: _Subject | None = None) -> Lost | Missing:
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


def totals_of(layers: Sequence[LayerState], found: Mapping[str, _Found], optimizer: Optimizer) -> Totals:
    """Over all tensors; the relative step over those whose update is known."""
    sums = {name: one.sums for name, one in found.items()}
    lost = [one.lost for one in found.values() if one.lost is not None]
    moved = [(rms, sums[one.name].entries) for one in layers if not isinstance(rms := one.update_rms, Missing)]
    entries, squares = sum(size for _, size in moved), math.fsum(rms * rms * size for rms, size in moved)
    steps = [(step, sums[one.name].squares) for one in layers if not isinstance(step := one.relative_update, Missing)]
    norm = math.sqrt(math.fsum(square for _, square in steps))
    rule, settings = optimizer.rule, optimizer.arguments
    adams = rule is not None and rule.averages == "betas"
    return Totals(
        tensors=len(layers),
        parameters=sum(one.entries for one in sums.values()),
        update_rms=math.sqrt(squares / entries) if entries else layers[0].update_rms,
        relative_update=(
            math.sqrt(math.fsum(step * step * square for step, square in steps)) / norm
            if norm
            else layers[0].relative_update
        ),
        noise_rms=noise_size(settings["betas"][0]) if adams else 1.0 if rule is LION else OF_ADAM,
        lost=_lost(reduce(add, lost)) if lost else layers[0].lost,
        violations=sum(one.violations.total for one in layers if not isinstance(one.violations, Missing)),
    )


def decay_clocks(state: OptimizerState, steps: float | None) -> Iterator[GroupState]:
    """Each group with the clock of its decay, after so many updates.

    Decoupled decay takes rate * decay of a weight in a step. Under SGD the momentum multiplies that by its gain.
    """
    rules = {number: RULES.get(part.settings.rule or "") for part in state.parts for number in part.numbers}
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
            pace = rate * decay * (gains.total if rule is SGD else 1.0)
            timescale = 1.0 / pace if pace > 0.0 else NEVER
            remaining = STEP_UNKNOWN if steps is None else math.exp(-steps * pace)
        yield GroupState(
            parameters=len(group.numbers),
            learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
            weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
            timescale=timescale,
            remaining=remaining,
        )
