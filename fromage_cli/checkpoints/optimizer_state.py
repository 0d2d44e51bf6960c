"""The state of an optimizer as torch saves it: settings by group, and slots by parameter number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fromage_cli.errors import MismatchError

if TYPE_CHECKING:
    import torch

KEYS = ("optimizer", "optimizer_state_dict", "optimizer_state", "optimizer_states", "optim", "opt_state")
"""Names under which training scripts keep it beside the weights."""
_FRONTIER = 100_000
"""Ways of interleaving the groups that are followed at once."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share their settings."""

    settings: Mapping[str, Any]
    """`lr`, `betas`, `weight_decay` … as the optimizer named them."""
    numbers: tuple[int, ...]
    """Which parameters, as the optimizer counts them."""
    names: tuple[str, ...] | None = None
    """Their names, where the optimizer was given them."""


@dataclass(frozen=True)
class OptimizerState:
    """What one optimizer remembers."""

    groups: tuple[ParameterGroup, ...]
    slots: Mapping[int, Mapping[str, Any]]
    """By parameter number: `exp_avg`, `exp_avg_sq`, `momentum_buffer`, `step` … ; empty before the first step."""

    def has(self, *names: str) -> bool:
        """Whether every parameter that was ever updated has these slots."""
        return bool(self.slots) and all(name in slot for slot in self.slots.values() for name in names)


def optimizer_state(dictionaries: Sequence[Mapping[str, Any]]) -> OptimizerState | None:
    """The first optimizer state kept in one of the dictionaries, or None."""
    for dictionary in dictionaries:
        for key in KEYS:
            found = dictionary.get(key)
            found = found[0] if isinstance(found, list | tuple) and found else found
            if isinstance(found, Mapping) and {"state", "param_groups"} <= set(found):
                return _parse(found)
    return None


def _parse(saved: Mapping[str, Any]) -> OptimizerState | None:
    groups, slots = saved["param_groups"], saved["state"]
    if not isinstance(groups, Sequence) or not isinstance(slots, Mapping):
        return None
    if not all(isinstance(group, Mapping) and isinstance(group.get("params"), Sequence) for group in groups):
        return None
    return OptimizerState(
        tuple(_group(group) for group in groups),
        {number: slot for number, slot in slots.items() if isinstance(slot, Mapping)},
    )


def _group(saved: Mapping[str, Any]) -> ParameterGroup:
    settings = {name: value for name, value in saved.items() if name not in ("params", "param_names")}
    names = saved.get("param_names")
    return ParameterGroup(settings, tuple(saved["params"]), tuple(names) if names else None)


def match_parameters(state: OptimizerState, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Which parameter number each tensor of a model has; `shapes` by name, in model order.

    By name where the optimizer knows names. Otherwise by order: each group holds its parameters in model order, and
    the only way of interleaving the groups that agrees with the shapes of the slots is taken.
    Raises MismatchError when the counts or shapes do not fit, or when more than one way does.
    """
    if all(group.names is not None for group in state.groups):
        named = {
            name: number
            for group in state.groups
            for name, number in zip(group.names or (), group.numbers, strict=True)
        }
        if set(shapes) <= set(named):
            return {name: named[name] for name in shapes}
    total = sum(len(group.numbers) for group in state.groups)
    if total != len(shapes):
        raise MismatchError(
            f"The optimizer's state has {total} parameters, the model {len(shapes)} trainable tensors.",
            "It belongs to another model, or to one with other frozen tensors.",
        )
    return dict(zip(shapes, _interleaved(state, list(shapes.values())), strict=True))


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
    for shape in shapes:
        following: dict[tuple[int, ...], _Way] = {}
        for places, way in ways.items():
            for number, after in _advances(groups, places, known, shape):
                following[after] = _Way(way.several or after in following, number, way)
        ways = following
        if not ways:
            raise MismatchError(
                "The optimizer's state does not fit the model: no order of its parameters has the tensors' shapes.",
                "It belongs to another model.",
            )
        if len(ways) > _FRONTIER:
            raise _ambiguous()
    (way,) = ways.values()
    if way.several:
        raise _ambiguous()
    return _read_back(way)


def _ambiguous() -> MismatchError:
    return MismatchError(
        "The optimizer's parameter groups can be matched to the model in more than one way.",
        "Give the optimizer model.named_parameters(), so that its state holds names.",
    )


def _read_back(way: _Way) -> list[int]:
    numbers = []
    while way.before is not None:
        numbers.append(way.last)
        way = way.before
    return numbers[::-1]


def _advances(
    groups: Sequence[Sequence[int]],
    places: tuple[int, ...],
    known: Mapping[int, tuple[int, ...] | None],
    shape: tuple[int, ...],
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The parameter numbers that may come next, and the places after each."""
    for index, place in enumerate(places):
        if place < len(groups[index]):
            number = groups[index][place]
            if known.get(number) in (None, shape):
                yield number, (*places[:index], place + 1, *places[index + 1 :])


def slot_shape(slot: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of the parameter that a slot belongs to; None when it holds no tensor of that shape."""
    tensors: dict[str, torch.Tensor] = {
        name: value for name, value in slot.items() if hasattr(value, "shape") and name != "step"
    }
    for name in ("exp_avg", "momentum_buffer", "exp_avg_sq"):
        if name in tensors:
            return tuple(tensors[name].shape)
    return None
