"""One tensor and how it is trained, and what every part of it adds to the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.checkpoints.optimizers.optimizer_state import as_stored
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.reductions import Advance
from fromage_cli.checkpoints.reading.slots import STEP, Part, dtypes_of, over_series, over_slots, shaped_like
from fromage_cli.checkpoints.runs.layer_settings import RunSettings
from fromage_cli.diagnostics.state.changes import Changes
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.digits import Digits, count_differing
from fromage_cli.diagnostics.state.sums import Moments, Seen, Summation, Sums
from fromage_cli.diagnostics.state.updates import Trained, keeps_moments, updates_made
from fromage_cli.optimizers.recognition import ADAFACTOR_OF_TRANSFORMERS, COPIES
from fromage_cli.optimizers.rounded_step import Dtype, LostUpdates, lost_updates, rounded
from fromage_cli.optimizers.rule import TWO_SHARES
from fromage_cli.optimizers.settings import MANY_STEPS, corrects_bias
from fromage_cli.optimizers.streamed import saved_update

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

    def work(self, summation: Summation, part: Part) -> Found:
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
            memory = {**arrays, "step": updates_made(slot) or MANY_STEPS}
            kept = next((kind for key, kind in dtypes_of(slot).items() if key in arrays), self.narrow)
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


def subject_of(entry: TensorEntry, slot: Mapping[str, Any], settings: RunSettings) -> Subject:
    """One tensor with the settings of its group."""
    name, told = entry.name, settings.found[-1]
    optimizer, own, moments = settings.optimizer_of(name), told.of(name), None
    kind = settings.kind_of(name)
    told_rate, decay = settings.rates(name)[-1], settings.decay(name)
    trained = Trained(
        *(entry.shape, optimizer, kind, slot, own),
        *(float(value) if isinstance(value, int | float) else None for value in (told_rate, decay)),
    )
    rule, arguments = optimizer.rule, optimizer.arguments
    betas = arguments.get("betas") or own.get("betas") or (0.9, 0.999)
    if keeps_moments(slot, entry.shape, rule, kind) and TWO_SHARES.fits(betas):
        beta1, beta2 = betas
        steps, stored = updates_made(slot) or MANY_STEPS, dtypes_of(slot)["exp_avg_sq"]
        moments = Moments(beta1, beta2, float(arguments.get("eps") or 0.0), steps, stored, corrects_bias(own))
    kernels = {key: value for key, value in own.items() if key in ("foreach", "fused")}
    rate = {} if trained.rate is None else {"lr": trained.rate}
    narrow = narrowest(entry.dtype) if entry.dtype in NARROW and not COPIES.intersection(slot) else None
    length = max(entry.elements // max(entry.shape[0] if entry.shape else 1, 1), 1)
    steps_by = {**kernels, **arguments, "weight_decay": trained.decay or 0.0, **rate}
    return Subject(name, entry.dtype, length, trained, moments, steps_by, narrow, master_of(slot, entry))


def master_of(slot: Mapping[str, Any], entry: TensorEntry) -> str | None:
    """The slot that holds the float32 copy of weights in 16 bits; None without."""
    found = shaped_like(slot, entry.shape) if entry.dtype in NARROW else {}
    return next((key for key in found if key in COPIES and dtypes_of(slot)[key] == "float32"), None)


def read_tensors(
    links: Links, subjects: Mapping[str, Subject], advance: Advance = lambda elements, doing: None
) -> tuple[dict[str, Found], list[dict[str, Changes]]]:
    """What is found of each tensor of the last checkpoint, and how each changed from one checkpoint to the next.

    Weights and slots of all checkpoints are read side by side in parts.
    """
    found, last = dict.fromkeys(subjects, Found()), len(links.checkpoints) - 1
    changes = [dict.fromkeys(subjects, Changes()) for _ in links.checkpoints]

    def work(summation: Summation, index: int, part: Part, before: Part | None) -> tuple[Found, Changes]:
        own = subjects[part.name].work(summation, part) if index == last else Found()
        return own, links.changes(index, part, before)

    memory = [{name: one.slots.get(name, {}) for name in subjects} for one in links.settings.found]
    series = over_series(links.checkpoints, memory, work, lambda: Summation(CHUNK), advance)
    for index, place, (more, changed) in series:
        found[place.name] = found[place.name].joined(more)
        changes[index][place.name] += changed
    return found, changes


def read_slots(
    links: Links, subjects: Mapping[str, Subject], advance: Advance = lambda elements, doing: None
) -> tuple[dict[str, Found], list[dict[str, Changes]]]:
    """The same of slots whose tensor is not known, two checkpoints at a time."""
    found, last = dict.fromkeys(subjects, Found()), len(links.checkpoints) - 1
    changes = [dict.fromkeys(subjects, Changes()) for _ in links.checkpoints]
    told = [one.slots for one in links.settings.found]

    def work(index: int, summation: Summation, part: Part) -> tuple[Found, Changes]:
        before = {key.removeprefix(BEFORE): array for key, array in part.arrays.items() if key.startswith(BEFORE)}
        own = replace(part, arrays={key: array for key, array in part.arrays.items() if not key.startswith(BEFORE)})
        changed = links.changes(index, own, replace(part, arrays=before) if before else None)
        return subjects[part.name].without_weights(summation, own) if index == last else Found(), changed

    for index in range(min(1, last), last + 1):
        memory = {}
        for name, subject in subjects.items():
            own, earlier = (one.get(name, {}) for one in (told[index], told[index - 1] if index else {}))
            held = {BEFORE + key: value for key, value in as_stored(earlier).items() if key != STEP}
            memory[name] = (subject.trained.shape, {**held, **as_stored(own)})
        for place, (more, changed) in over_slots(memory, partial(work, index), lambda: Summation(CHUNK), advance):
            found[place.name] = found[place.name].joined(more)
            changes[index][place.name] += changed
    return found, changes
