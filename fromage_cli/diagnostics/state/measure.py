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
from fromage_cli.checkpoints.reading.slots import Part, dtypes_of, over_series, scalar
from fromage_cli.checkpoints.runs.layer_settings import RunSettings
from fromage_cli.diagnostics.state.changes import Changes
from fromage_cli.diagnostics.state.continuity import Links
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
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, STEP_UNKNOWN, WEIGHT_DECAY_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.rounded_step import Dtype, LostUpdates, lost_updates
from fromage_cli.optimizers.rule import LION, MOMENTUM, RULES, SGD
from fromage_cli.optimizers.settings import MANY_STEPS, Optimizer
from fromage_cli.optimizers.streamed import saved_update
from fromage_cli.theory.equilibrium import momentum_gains
from fromage_cli.theory.moment_bounds import noise_size

NO_MOMENTS = Missing(Why.NO_STATE, "the optimizer's state holds no moments of it")
NOT_MATCHED = Missing(
    Why.NO_STATE, "the state has no names, and nothing else tells which of its moments belong to which tensor"
)
NO_RULE = Missing(Why.NO_FORMULA, "its update cannot be made from the state alone")
OF_ADAM = Missing(Why.NOT_DEFINED, "the optimizer keeps no second moments")
NO_DECAY = Missing(Why.NOT_DEFINED, "weight decay does not go past the gradient here")
NO_CLOCK = Missing(Why.NO_FORMULA, "what weight decay does under this optimizer depends on the gradients")
ZERO_WEIGHTS = Missing(Why.ZERO_OR_NOT_FINITE, "the weights are 0 or not finite")
NOT_NARROW = Missing(Why.NOT_DEFINED, "its weights are kept in float32, or in a master copy of them")
STILL = Missing(Why.NOTHING_MOVES, "the step changes nothing")
NEVER = Missing(Why.NOTHING_MOVES, "the rate or the weight decay is 0")
ADAMS = ("exp_avg", "exp_avg_sq")
LEAST_STEP = 1e-6
"""Relative step above which a float32 weight does not stay as it is."""


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

    def joined(self, other: _Found) -> _Found:
        """With the next part."""
        lost = other.lost if self.lost is None else self.lost if other.lost is None else self.lost + other.lost
        return _Found(self.sums + other.sums, self.seen.joined(other.seen), lost)


@dataclass(frozen=True)
class _Subject:
    """One tensor, and how it is trained."""

    name: str
    length: int
    """Entries of a row along the first dimension."""
    optimizer: Optimizer
    slot: Mapping[str, Any]
    moments: Moments | None
    """Of Adam's kind; None without."""
    settings: Mapping[str, Any]
    """Of its group, by the names of the class that steps."""
    narrow: Dtype | None
    """The dtype of weights that each step rounds; None where they are kept in more digits."""

    def work(self, summation: Summation, part: Part) -> _Found:
        """What one part of it adds."""
        arrays, rule, seen, lost, update = part.arrays, self.optimizer.rule, Seen(), None, None
        if self.moments is not None:
            sums = summation.adam(arrays, self.moments)
            seen = Seen.of(arrays["exp_avg_sq"], part.begin, self.length)
        else:
            if rule is not None and len(arrays) > 1 and not (rule.matrices_only or rule.decay == "rescaled"):
                update = saved_update(rule, arrays, arrays["weight"], self.optimizer.arguments)
            sums = summation.weights(arrays["weight"]) if update is None else summation.update(arrays["weight"], update)
        if self.narrow is not None and rule is not None and "lr" in self.settings:
            slot = {**arrays, "step": scalar(self.slot, "step") or MANY_STEPS}
            kept = next((kind for key, kind in dtypes_of(self.slot).items() if key in arrays), self.narrow)
            lost = lost_updates(rule, slot, arrays["weight"], self.settings, self.narrow, moments=narrowest(kept))
        return _Found(sums, seen, lost)


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
    layers = tuple(
        layer_of(
            subjects[name],
            entries[name],
            found[name],
            rate=settings.rates(name)[-1],
            decay=settings.decay(name),
            matched=bool(told.slots) or not state.slots,
        )
        for name in names
    )
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
    optimizer, moments, rows = settings.optimizer_of(entry.name), None, entry.shape[0] if entry.shape else 1
    rate, decay, arguments = settings.rates(entry.name)[-1], settings.decay(entry.name), optimizer.arguments
    told = settings.found[-1].of(entry.name)
    if all(key in slot for key in ADAMS) and (optimizer.rule is None or optimizer.rule.averages == "betas"):
        beta1, beta2 = arguments.get("betas") or told.get("betas") or (0.9, 0.999)
        steps, stored = scalar(slot, "step") or MANY_STEPS, dtypes_of(slot)["exp_avg_sq"]
        moments = Moments(beta1, beta2, float(arguments.get("eps") or 0.0), steps, stored)
    kernels = {key: value for key, value in told.items() if key in ("foreach", "fused")}
    own = {**kernels, **arguments, "weight_decay": decay or 0.0, **({"lr": rate} if rate is not None else {})}
    masters = [key for key in slot if "master" in key or key in ("param", "fp32")]
    narrow = narrowest(entry.dtype) if entry.dtype in ("bfloat16", "float16") and not masters else None
    length = max(entry.elements // max(rows, 1), 1)
    return _Subject(entry.name, length, optimizer, slot, moments, own, narrow)


def layer_of(
    subject: _Subject,
    entry: TensorEntry,
    found: _Found,
    *,
    rate: float | None,
    decay: float | None,
    matched: bool,
) -> LayerState:
    """One tensor from its sums; `matched`: whether it is told which moments belong to which tensor."""
    optimizer, slot, sums, shape = subject.optimizer, subject.slot, found.sums, entry.shape
    moments = subject.moments
    decoupled = optimizer.rule is not None and optimizer.rule.decay == "decoupled"
    updated = bool(sums.first_moments or sums.second_moments or subject.moments)
    size = math.sqrt(sums.update_squares / sums.entries) if sums.entries else math.nan
    norm = math.sqrt(sums.squares)
    step = scalar(slot, "step")
    unknown = NO_RULE if len(slot) else NO_MOMENTS if matched else NOT_MATCHED
    rms: float | Missing = size if updated and optimizer.rule is not None else unknown
    relative, share = rms, NO_DECAY if not decoupled else rms
    if not isinstance(rms, Missing):
        moved = math.sqrt(sums.update_squares)
        relative = (
            LEARNING_RATE_UNKNOWN if rate is None else rate * moved / norm if 0.0 < norm < math.inf else ZERO_WEIGHTS
        )
        if decoupled and decay is not None:
            pull = decay * norm
            share = pull / (pull + moved) if pull + moved > 0.0 else 0.0
    known_types = {kind for key, kind in dtypes_of(slot).items() if key != "step"}
    return LayerState(
        name=subject.name,
        shape=shape,
        dtype=entry.dtype,
        moments_dtype=", ".join(sorted(known_types)) or None,
        learning_rate=LEARNING_RATE_UNKNOWN if rate is None else rate,
        weight_decay=WEIGHT_DECAY_UNKNOWN if decay is None else decay,
        step=STEP_UNKNOWN if step is None else step,
        update_rms=rms,
        relative_update=relative,
        decay_share=share,
        lost=_lost(found.lost, subject),
        violations=OF_ADAM if moments is None else Violations.of(sums, moments),
        epsilon=OF_ADAM if moments is None else rms if isinstance(rms, Missing) else Epsilon.of(sums),
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
    moved = [one for one in layers if not isinstance(one.update_rms, Missing)]
    entries = sum(sums[one.name].entries for one in moved)
    squares = math.fsum(sums[one.name].update_squares for one in moved)
    steps = [
        (one.relative_update, sums[one.name].squares) for one in moved if not isinstance(one.relative_update, Missing)
    ]
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
            else (moved or layers)[0].relative_update
        ),
        noise_rms=noise_size(settings["betas"][0]) if adams else 1.0 if rule is LION else OF_ADAM,
        lost=_lost(reduce(add, lost)) if lost else layers[0].lost,
        violations=sum(one.violations.total for one in layers if not isinstance(one.violations, Missing)),
    )


def decay_clocks(state: OptimizerState, steps: float | None) -> Iterator[GroupState]:
    """Each group with the clock of its decay, after so many updates.

    Decoupled decay takes rate * decay of a weight in a step. Under SGD the momentum multiplies that by its gain.
    """
    rule = RULES.get(state.settings.rule or "")
    for group in state.groups:
        rate, decay = (group.settings.get(name) for name in ("lr", "weight_decay"))
        rate = float(rate) if isinstance(rate, int | float) else None
        decay = float(decay) if isinstance(decay, int | float) else None
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
