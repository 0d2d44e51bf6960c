"""One tensor and how it is trained, and what every part of it adds to the sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.checkpoints.optimizers.optimizer_state import as_stored
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.known_numbers import remember
from fromage_cli.checkpoints.reading.reductions import Advance
from fromage_cli.checkpoints.reading.slots import STEP, WEIGHT, Part, dtypes_of, over_series, over_slots, shaped_like
from fromage_cli.checkpoints.runs.layer_settings import RunSettings
from fromage_cli.checkpoints.storage.sharing import are_shared
from fromage_cli.diagnostics.state.changes import Changes
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.digits import Digits, count_differing
from fromage_cli.diagnostics.state.sums import Moments, Seen, Summation, Sums
from fromage_cli.diagnostics.state.updates import Trained, keeps_moments, updates_made
from fromage_cli.optimizers.recognition import ADAFACTOR_OF_TRANSFORMERS, COPIES
from fromage_cli.optimizers.rounded_step import Dtype, LostUpdates, lost_updates, rounded
from fromage_cli.optimizers.rule import TWO_SHARES
from fromage_cli.optimizers.settings import MANY_STEPS, beta1_range, corrects_bias
from fromage_cli.optimizers.streamed import saved_update
from fromage_cli.theory.magnitudes import joined_norm

NARROW = ("bfloat16", "float16")
BEFORE = "before "
"""What the slots of the checkpoint before are called by, beside those of a checkpoint."""


@dataclass(frozen=True)
class Found:
    """What is known of some parts of a tensor."""

    sums: Sums = field(default_factory=Sums)
    seen: Seen = field(default_factory=Seen)
    lost: LostUpdates | None = None
    differing: int = 0
    """Entries of the stored weight that are not the rounded master."""
    digits: Digits = field(default_factory=Digits)

    def joined(self, other: Found) -> Found:
        """With the next part."""
        lost = other.lost if self.lost is None else self.lost if other.lost is None else self.lost + other.lost
        digits = self.digits.joined(other.digits)
        return Found(
            self.sums + other.sums, self.seen.joined(other.seen), lost, self.differing + other.differing, digits
        )


@dataclass(frozen=True)
class Subject:
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
    updates: float | None
    """As its slot counts them."""

    def work(self, summation: Summation, part: Part) -> Found:
        """What one part of it adds."""
        arrays, rule = dict(part.arrays), self.trained.optimizer.rule
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
            memory = {**arrays, "step": self.updates or MANY_STEPS}
            kept = next((kind for key, kind in dtypes_of(self.trained.slot).items() if key in arrays), self.narrow)
            lost = lost_updates(rule, memory, arrays["weight"], self.settings, self.narrow, moments=narrowest(kept))
        return Found(sums, seen, lost, differing, digits)

    def without_weights(self, summation: Summation, part: Part) -> Found:
        """What one part of its slots adds, where its weights are not known: they count as 0."""
        import numpy

        size = next(iter(part.arrays.values())).size
        return self.work(summation, replace(part, arrays={**part.arrays, "weight": numpy.zeros(size, numpy.float32)}))

    def _made_in_parts(self, arrays: Mapping[str, Any]) -> Any:
        """The update of one part; None where it takes the whole tensor, or more than the state."""
        rule = self.trained.optimizer.rule
        if self.trained.kind == ADAFACTOR_OF_TRANSFORMERS:
            return arrays.get("exp_avg")
        if rule is None or rule.matrices_only or rule.decay == "rescaled":
            return None
        return saved_update(rule, arrays, arrays["weight"], self.trained.optimizer.arguments)


def narrowest(dtype: str) -> Dtype:
    """The dtype in which arithmetic on stored moments is rounded."""
    return "bfloat16" if dtype == "bfloat16" else "float16" if dtype == "float16" else "float32"


def subject_of(
    entry: TensorEntry, slot: Mapping[str, Any], settings: RunSettings, rate: float | None = None
) -> Subject:
    """One tensor with the settings of its group; `rate`: that of its last update, where it is not the saved one."""
    name, told = entry.name, settings.found[-1]
    optimizer, own, moments = settings.optimizer_of(name), told.of(name), None
    kind, updates = settings.kind_of(name), updates_made(slot)
    found = (settings.rates(name)[-1] if rate is None else rate, settings.decay(name))
    trained = Trained(
        *(entry.shape, optimizer, kind, slot, own),
        *(float(value) if isinstance(value, int | float) else None for value in found),
    )
    rule, arguments = optimizer.rule, optimizer.arguments
    betas = arguments.get("betas") or own.get("betas") or (0.9, 0.999)
    if keeps_moments(slot, entry.shape, rule, kind) and TWO_SHARES.fits(betas):
        beta1, beta2 = betas
        steps, stored = updates or MANY_STEPS, dtypes_of(slot)["exp_avg_sq"]
        pairs: list[Any] = [one.of(name).get("betas") for one in settings.found]
        earlier = [pair for pair in pairs if TWO_SHARES.fits(pair)]
        ranges = [beta1_range(own, beta1), *(beta1_range(own, one) for one, _ in earlier)]
        between = min(low for low, _ in ranges), max(high for _, high in ranges)
        moments = Moments(
            *(beta1, beta2, float(arguments.get("eps") or 0.0), steps, stored, corrects_bias(own)),
            between=between if between[0] < between[1] else None,
            first_dtype=dtypes_of(slot)["exp_avg"],
            constant=all(other == beta2 for _, other in earlier),
        )
    kernels = {key: value for key, value in own.items() if key in ("foreach", "fused")}
    stepping = {} if trained.rate is None else {"lr": trained.rate}
    narrow = narrowest(entry.dtype) if entry.dtype in NARROW and not COPIES.intersection(slot) else None
    length = max(entry.elements // max(entry.shape[0] if entry.shape else 1, 1), 1)
    steps_by = {**kernels, **arguments, "weight_decay": trained.decay or 0.0, **stepping}
    return Subject(name, entry.dtype, length, trained, moments, steps_by, narrow, master_of(slot, entry), updates)


def tensor_subjects(links: Links, index: int) -> dict[str, Subject]:
    """The tensors of one checkpoint of a run that the last one holds as well, in the same shape."""
    entries, settings = links.checkpoints[index].entries, links.settings_at(index)
    shapes = {name: links.checkpoints[-1].entries[name].shape for name in links.names}
    slots = settings.found[-1].slots
    return {
        name: subject_of(entries[name], slots.get(name, {}), settings, links.last_rate(index, name))
        for name in links.names
        if name in entries and entries[name].shape == shapes[name]
    }


def master_of(slot: Mapping[str, Any], entry: TensorEntry) -> str | None:
    """The slot that holds the float32 copy of weights in 16 bits; None without."""
    found = shaped_like(slot, entry.shape) if entry.dtype in NARROW else {}
    return next((key for key in found if key in COPIES and dtypes_of(slot)[key] == "float32"), None)


Measured = tuple[list[dict[str, Found]], list[dict[str, Changes]]]
"""Of each checkpoint by name: what is found in it, and how it changed from the one before."""


def read_tensors(
    links: Links, subjects: Sequence[Mapping[str, Subject]], advance: Advance = lambda elements, doing: None
) -> Measured:
    """What is found of each tensor of each checkpoint, and how each changed; `subjects` of each checkpoint.

    Weights and slots of all checkpoints are read side by side in parts.
    """
    found = [dict.fromkeys(own, Found()) for own in subjects]
    changes = [dict.fromkeys(own, Changes()) for own in subjects]
    norms: list[dict[str, float]] = [{} for _ in subjects]
    shared = are_shared()

    def work(summation: Summation, index: int, part: Part, before: Part | None) -> tuple[Found, Changes, float]:
        norm = summation.workspace.norm(part.arrays[WEIGHT]) if shared else 0.0
        return subjects[index][part.name].work(summation, part), links.changes(index, part, before), norm

    memory = [{name: one.trained.slot for name, one in own.items()} for own in subjects]
    series = over_series(links.checkpoints, memory, work, lambda: Summation(CHUNK), advance)
    for index, place, (more, changed, norm) in series:
        found[index][place.name] = found[index][place.name].joined(more)
        changes[index][place.name] += changed
        norms[index][place.name] = joined_norm(norms[index].get(place.name, 0.0), norm)
    for checkpoint, own in zip(links.checkpoints, norms, strict=True):
        remember(own if shared else {}, checkpoint)
    return found, changes


def read_slots(
    links: Links, subjects: Sequence[Mapping[str, Subject]], advance: Advance = lambda elements, doing: None
) -> Measured:
    """The same of slots whose tensor is not known, two checkpoints at a time."""
    found = [dict.fromkeys(own, Found()) for own in subjects]
    changes = [dict.fromkeys(own, Changes()) for own in subjects]

    def work(index: int, summation: Summation, part: Part) -> tuple[Found, Changes]:
        before = {key.removeprefix(BEFORE): array for key, array in part.arrays.items() if key.startswith(BEFORE)}
        own = replace(part, arrays={key: array for key, array in part.arrays.items() if not key.startswith(BEFORE)})
        changed = links.changes(index, own, replace(part, arrays=before) if before else None)
        return subjects[index][part.name].without_weights(summation, own), changed

    for index, of_one in enumerate(subjects):
        memory = {}
        for name, subject in of_one.items():
            earlier = subjects[index - 1].get(name) if index else None
            slot = {} if earlier is None else as_stored(earlier.trained.slot)
            held = {BEFORE + key: value for key, value in slot.items() if key != STEP}
            memory[name] = (subject.trained.shape, {**held, **as_stored(subject.trained.slot)})
        for place, (more, changed) in over_slots(memory, partial(work, index), lambda: Summation(CHUNK), advance):
            found[index][place.name] = found[index][place.name].joined(more)
            changes[index][place.name] += changed
    return found, changes
