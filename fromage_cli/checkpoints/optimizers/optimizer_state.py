"""The state of an optimizer: settings by group, slots by parameter number, and which tensor has which number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from fromage_cli.checkpoints.names.naming import strip_prefixes
from fromage_cli.checkpoints.optimizers.decay_rules import DECAY_RULES
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.counting import first_names
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.recognition import recognise
from fromage_cli.optimizers.settings import SavedSettings

SHAPED = ("exp_avg", "momentum_buffer", "exp_avg_sq", "exp_inf", "square_avg", "sum", "prev", "variance")
"""Slots that have their parameter's shape, in torch's own optimizers."""
_MOST_WORK = 1_000_000
"""Places in groups that are compared, over all ways of interleaving them, before they are called ambiguous."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share their settings."""

    settings: Mapping[str, Any]
    """`lr`, `betas`, `weight_decay` … as the optimizer named them."""
    numbers: tuple[int, ...]
    """Which parameters, as the optimizer counts them."""
    names: tuple[str, ...] | None = None
    """Their names, where the optimizer was given them."""


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


@dataclass(frozen=True)
class OptimizerState:
    """What one optimizer remembers."""

    groups: tuple[ParameterGroup, ...]
    slots: Mapping[int, Mapping[str, Any]]
    """By parameter number: `exp_avg`, `exp_avg_sq`, `momentum_buffer`, `step` … ; empty before the first step."""

    def has(self, *names: str) -> bool:
        """Whether every parameter that was ever updated has these slots."""
        return bool(self.slots) and all(name in slot for slot in self.slots.values() for name in names)

    @property
    def kind(self) -> str | None:
        """Which optimizer it comes from, as `recognise` names it."""
        slots = {name for slot in self.slots.values() for name in slot}
        return recognise([group.settings for group in self.groups], slots)

    @property
    def steps(self) -> int | None:
        """The number of updates made, from the slots; None where they do not count."""
        counts = []
        for slot in self.slots.values():
            value: Any = slot.get("step")
            if getattr(value, "shape", ()) in ((), (1,)):
                value = value.item() if hasattr(value, "item") else value
                counts += [int(value)] if isinstance(value, int | float) and abs(value) < math.inf else []
        return max(counts, default=None)

    @property
    def members_told(self) -> bool:
        """Whether it can be told which tensors each group holds: by the shapes of slots, or by names."""
        return any(map(slot_shape, self.slots.values())) or all(group.names is not None for group in self.groups)

    @property
    def rates_told(self) -> bool:
        """Whether every tensor's rate is known: one for all, or that of its group."""
        return self.members_told or len({float(group.settings.get("lr") or 0.0) for group in self.groups}) < 2

    @property
    def settings(self) -> SavedSettings:
        """What it says of its optimizer."""
        return SavedSettings(self.kind, tuple(group.settings for group in self.groups), self.members_told)

    def members_by_rule(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, ...], ...]:
        """The names in each group where one of DECAY_RULES made the groups; empty where none did, or several may have.

        A rule made two groups that differ in weight decay alone, which one of them does not have, and whose counts and
        shapes are those of the rule. `shapes` by name; in their order, which need not be the model's, names come.
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
        """Itself where it holds what an optimizer of that name remembers."""
        return self if self.settings.serves(name) else None


def _is_plain(value: object) -> bool:
    """Whether a setting is a number, a text or None, or a few numbers such as betas."""
    if isinstance(value, list | tuple):
        return len(value) <= 4 and all(isinstance(part, int | float) for part in value)
    return value is None or isinstance(value, int | float | str)


def match_parameters(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Which parameter number each tensor of a model has; `shapes` by name, in model order.

    By name where the optimizer knows names, up to wrappers and what all names begin with. Otherwise by order: each
    group holds its parameters in model order, and the only way of interleaving the groups that agrees with the shapes
    of the slots is taken; where there are several, that of the rule which made the groups. Raises MismatchError when
    the counts, shapes or names do not fit, or when more than one way does.
    """
    if named := _numbers_by_name(state, shapes):
        for name, number in named.items():
            stored = slot_shape(state.slots.get(number, {}))
            if stored not in (None, shapes[name]):
                raise MismatchError(
                    f"The optimizer's state for {name!r} has shape {list(stored or ())}, the tensor "
                    f"{list(shapes[name])}.",
                    "It belongs to another model.",
                )
        return named
    total = sum(len(group.numbers) for group in state.groups)
    if total != len(shapes):
        raise MismatchError(
            f"The optimizer's state has {total} parameters, the model {len(shapes)} trainable tensors.",
            _without_number(state, shapes) or "It belongs to another model, or to one with other frozen tensors.",
        )
    found = _in_order(state, shapes)
    saved = _names(state)
    for name, number in found.items():
        if saved.get(name, number) != number:
            raise MismatchError(
                f"The optimizer's state names {name!r} in another place than the model has it, and other names differ.",
                "It belongs to another model, or names of layers have changed since.",
            )
    return found


def _without_number(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What to do where the state has every tensor of a model but a few, which were frozen: by the shapes of its slots.

    None where they do not tell.
    """
    held = Counter(slot_shape(state.slots.get(number, {})) for group in state.groups for number in group.numbers)
    wanted = Counter[tuple[int, ...] | None](shapes.values())
    missing = wanted - held
    if held - wanted or not missing:
        return None
    count, names = missing.total(), [repr(name) for name, shape in shapes.items() if shape in missing]
    if count == len(names):
        tensors = f"The state lacks {first_names(names)}"
    else:
        tensors = f"By its shapes, the state lacks {count} of these: {first_names(names)}"
    return f"{tensors}. If frozen in training, set requires_grad=False there in the factory of --model."


def _numbers_by_name(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of each tensor where every one of them is known by name; else nothing."""
    if not shapes or any(group.names is None for group in state.groups):
        return {}
    saved = _names(state)
    if set(shapes) <= set(saved):
        return {name: saved[name] for name in shapes}
    own = {name: short for short, name in strip_prefixes(shapes).names.items()}
    for theirs, ours in ((0, 0), (1, 0), (0, 1), (_in_common(saved), _in_common(own.values()))):
        numbers = {_without(name, theirs): number for name, number in saved.items()}
        wanted = {name: _without(short, ours) for name, short in own.items()}
        if len(numbers) == len(saved) and set(wanted.values()) <= set(numbers):
            return {name: numbers[wanted[name]] for name in shapes}
    return {}


def _names(state: OptimizerState) -> dict[str, int]:
    """The numbers by the names that the optimizer knows."""
    return {
        name: number for group in state.groups for name, number in zip(group.names or (), group.numbers, strict=False)
    }


def _without(name: str, count: int) -> str:
    """A name without its first components."""
    return ".".join(name.split(".")[count:])


def _in_common(names: Collection[str]) -> int:
    """With how many components all names begin alike, their last ones left aside."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _in_order(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of each tensor by the order of the groups."""
    try:
        return dict(zip(shapes, _interleaved(state, list(shapes.values())), strict=True))
    except _Ambiguous:
        members = state.members_by_rule(shapes)
        pairs = (zip(names, group.numbers, strict=True) for names, group in zip(members, state.groups, strict=False))
        found = {name: number for pair in pairs for name, number in pair}
        fits = (slot_shape(state.slots.get(number, {})) in (None, shapes[name]) for name, number in found.items())
        if not found or not all(fits):
            raise
        return found


@dataclass(frozen=True)
class _Way:
    """One way of having placed the first tensors, or the sign that there are several."""

    several: bool = False
    last: int = -1
    """The parameter number placed last."""
    before: _Way | None = None


def _interleaved(state: OptimizerState, shapes: list[tuple[int, ...]]) -> list[int]:
    """The parameter number at each place of the model order."""
    groups = [group.numbers for group in state.groups]
    known = {number: slot_shape(slot) for number, slot in state.slots.items()}
    ways: dict[tuple[int, ...], _Way] = {(0,) * len(groups): _Way()}
    work = 0
    for shape in shapes:
        following: dict[tuple[int, ...], _Way] = {}
        for places, way in ways.items():
            for index, place in enumerate(places):
                if place == len(groups[index]) or known.get(groups[index][place]) not in (None, shape):
                    continue
                if (work := work + len(groups)) > _MOST_WORK:
                    raise _Ambiguous("too many ways to tell them apart")
                after = (*places[:index], place + 1, *places[index + 1 :])
                following[after] = _Way(way.several or after in following, groups[index][place], way)
        ways = following
        if not ways:
            raise MismatchError(
                "The optimizer's state does not fit the model: no order of its parameters has the tensors' shapes.",
                "It belongs to another model.",
            )
    (way,) = ways.values()
    if way.several:
        raise _Ambiguous("more than one way")
    numbers = []
    while way.before is not None:
        numbers.append(way.last)
        way = way.before
    return numbers[::-1]


class _Ambiguous(MismatchError):
    """There is more than one way."""

    def __init__(self, ways: str) -> None:
        super().__init__(
            f"The optimizer's parameter groups can be matched to the model in {ways}.",
            "Give the optimizer model.named_parameters(), so that its state holds names.",
        )


def slot_shape(slot: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of the parameter that a slot belongs to; None when it holds no tensor of that shape."""
    stored = slot.stored if isinstance(slot, UnreadSlot) else slot
    for name in SHAPED:
        if hasattr(stored.get(name), "shape"):
            return tuple(stored[name].shape)
    row, column = (getattr(stored.get(name), "shape", None) for name in ("row_var", "col_var"))
    return (*row[:-1], column[-1]) if row is not None and column is not None else None  # Adafactor's means
