"""The state of an optimizer, or of several that train one model: settings by group, slots by parameter number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.optimizers.decay_rules import DECAY_RULES
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.optimizers.recognition import EITHER_ADAM, recognise
from fromage_cli.optimizers.rule import ADAM
from fromage_cli.optimizers.settings import SavedSettings

SHAPED = ("exp_avg", "momentum_buffer", "exp_avg_sq", "exp_inf", "square_avg", "sum", "prev", "variance")
"""Slots that have their parameter's shape, in torch's own optimizers."""
UNKNOWN = "an unknown one"
"""What a kind of optimizer is called that is not recognised, beside others."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share their settings."""

    settings: Mapping[str, Any]
    """`lr`, `betas`, `weight_decay` … as the optimizer named them."""
    numbers: tuple[int, ...]
    """Which parameters, as the optimizer counts them."""
    names: tuple[str, ...] | None = None
    """Their names, where the optimizer was given them."""
    optimizer: str = ""
    """Which of several optimizers has it: where that one's state lies."""


class UnreadSlot(Mapping[str, Any]):
    """What an optimizer remembers of one parameter, each tensor read from its file when it is asked for."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.stored = stored

    def __getitem__(self, name: str) -> Any:
        value = self.stored[name]
        return value.read() if isinstance(value, StoredTensor) else value

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def as_stored(slot: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is in a slot, tensors as places in their file where they have not been read."""
    return slot.stored if isinstance(slot, UnreadSlot) else slot


@dataclass(frozen=True)
class OptimizerState:
    """What one optimizer remembers, or all that train one model."""

    groups: tuple[ParameterGroup, ...]
    slots: Mapping[int, Mapping[str, Any]]
    """By parameter number: `exp_avg`, `exp_avg_sq`, `momentum_buffer`, `step` … ; empty before the first step."""
    whole: OptimizerState | None = None
    """That of all optimizers, of which this is one's; None where it is all there is."""
    unread: tuple[str, ...] = ()
    """The forms in which it holds tensors that are not read, as an 8-bit one's; these count as not there."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every parameter."""
        return tuple(number for group in self.groups for number in group.numbers)

    @property
    def updated(self) -> frozenset[int]:
        """The parameters that have a slot, or whose group needs none, for it has no momentum."""
        without = [group.numbers for group in self.groups if group.settings.get("momentum") == 0]
        return frozenset(self.slots).union(*without)

    @property
    def parts(self) -> tuple[OptimizerState, ...]:
        """Each optimizer's own; where one class steps by Muon and by Adam (`use_muon`), these are two."""
        owners: dict[object, list[ParameterGroup]] = {}
        for group in self.groups:
            owners.setdefault((group.optimizer, group.settings.get("use_muon")), []).append(group)
        return (self,) if len(owners) == 1 else tuple(map(self.of_groups, owners.values()))

    def of_groups(self, groups: Collection[ParameterGroup]) -> OptimizerState:
        """What is remembered of some groups alone."""
        numbers = {number for group in groups for number in group.numbers}
        slots = {number: slot for number, slot in self.slots.items() if number in numbers}
        return OptimizerState(tuple(groups), slots, self, self.unread)

    def has(self, *names: str) -> bool:
        """Whether every parameter that was ever updated has these slots."""
        stored = list(map(as_stored, self.slots.values()))
        return bool(stored) and all(slot.get(name) is not None for slot in stored for name in names)

    @property
    def kind(self) -> str | None:
        """Which optimizer it comes from, as `recognise` names it; of several kinds all, as `adamw and muon`."""
        kinds = dict.fromkeys(part._kind for part in self.parts)
        if set(kinds) == {ADAM.name, EITHER_ADAM}:
            return EITHER_ADAM
        return " and ".join(kind or UNKNOWN for kind in kinds) if any(kinds) else None

    @property
    def _kind(self) -> str | None:
        """That of one optimizer."""
        slots = {name for slot in self.slots.values() for name in slot}
        return recognise([group.settings for group in self.groups], slots)

    @property
    def steps(self) -> int | None:
        """The number of updates made, from the slots; None where they do not count."""
        counts = []
        for slot in self.slots.values():
            value: Any = as_stored(slot).get("step")
            if getattr(value, "shape", ()) in ((), (1,)):
                value = value.item() if hasattr(value, "item") else value
                counts += [int(value)] if isinstance(value, int | float) and abs(value) < math.inf else []
        return max(counts, default=None)

    @property
    def members_known(self) -> bool:
        """Whether it is known which tensors each group holds: by the shapes of slots, or by names."""
        return any(map(slot_shape, self.slots.values())) or all(group.names is not None for group in self.groups)

    @property
    def rates_known(self) -> bool:
        """Whether every tensor's rate is known: one for all, or that of its group."""
        return self.members_known or len({float(group.settings.get("lr") or 0.0) for group in self.groups}) < 2

    @property
    def settings(self) -> SavedSettings:
        """What it says of its optimizer."""
        groups = tuple(group.settings for group in self.groups)
        parts = [(part._kind or UNKNOWN, len(part.numbers)) for part in self.parts]
        several = tuple(parts) if len(parts) > 1 else ()
        return SavedSettings(self.kind, groups, self.members_known, several, self.steps, self.unread)

    def settings_for(self, name: str | None) -> SavedSettings:
        """The same, of the optimizers of that name alone where there are any."""
        return (self.serving(name) or self).settings

    def members_by_rule(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, ...], ...]:
        """The names in each group where one of DECAY_RULES made the groups; empty where none did, or several may have.

        A rule made two groups that differ in weight decay alone, and one of them has none. Their counts and shapes are
        those of the rule. `shapes` by name; in their order, which need not be the model's, names come.
        """
        if len(self.groups) != 2:
            return ()
        # plain values alone are compared: what a file nests in a setting may be far larger than the file
        settings = [{key: value for key, value in one.settings.items() if _is_plain(value)} for one in self.groups]
        decays = [bool(one.pop("weight_decay", 0.0)) for one in settings]
        if sorted(decays) != [False, True] or settings[0] != settings[1]:
            return ()
        told = [Counter(slot_shape(self.slots.get(number, {})) for number in one.numbers) for one in self.groups]
        ways = set()
        for rule in DECAY_RULES:
            members = tuple(
                tuple(name for name, shape in shapes.items() if rule(name, shape) == decayed) for decayed in decays
            )
            fits = [len(names) for names in members] == [len(one.numbers) for one in self.groups]
            for names, slots in zip(members, told, strict=True):
                held = Counter(shapes[name] for name in names)
                fits &= all(count <= held[shape] for shape, count in slots.items() if shape is not None)
            ways |= {members} if fits else set()
        return ways.pop() if len(ways) == 1 else ()

    def serving(self, name: str | None) -> OptimizerState | None:
        """What serves an optimizer of that name: itself, or the part that is of such a one; None where nothing is."""
        if self.settings.serves(name):
            return self
        parts = [part for part in self.parts if part is not self and part.settings.serves(name)]
        return self.of_groups([group for part in parts for group in part.groups]) if parts else None


def _is_plain(value: object) -> bool:
    """Whether a setting is a number, a text or None, or a few numbers such as betas."""
    if isinstance(value, list | tuple):
        return len(value) <= 4 and all(isinstance(part, int | float) for part in value)
    return value is None or isinstance(value, int | float | str)


def together(states: Mapping[tuple[str, ...], OptimizerState]) -> OptimizerState | None:
    """The states of several optimizers as one, each by where it lies, its parameters counted on; None without any.

    An optimizer that steps in the backward pass has one parameter. The last key on the way there is then its name.
    """
    if len(states) < 2:
        return next(iter(states.values()), None)
    groups: list[ParameterGroup] = []
    slots: dict[int, Mapping[str, Any]] = {}
    start = 0
    single = all(len(state.numbers) == 1 for state in states.values())
    for place, state in states.items():
        for group in state.groups:
            names = (place[-1],) if single and group.names is None else group.names
            numbers = tuple(start + number for number in group.numbers)
            groups.append(ParameterGroup(group.settings, numbers, names, ".".join(place)))
        slots |= {start + number: slot for number, slot in state.slots.items()}
        start += 1 + max(state.numbers, default=-1)
    forms = dict.fromkeys(form for state in states.values() for form in state.unread)
    return OptimizerState(tuple(groups), slots, unread=tuple(forms))


def slot_shape(slot: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of the parameter that a slot belongs to; None when it holds no tensor of that shape."""
    stored = as_stored(slot)
    for name in SHAPED:
        if hasattr(stored.get(name), "shape"):
            return tuple(stored[name].shape)
    row, column = (getattr(stored.get(name), "shape", None) for name in ("row_var", "col_var"))
    return (*row[:-1], column[-1]) if row is not None and column is not None else None  # Adafactor's means
