"""Whether what an optimizer's state holds, settings and slots, is what its rule can have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.optimizers.optimizer_kind import EITHER_ADAM, optimizer_kind
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, UnreadSlot
from fromage_cli.errors import InputError

RULES = ("sgd", "adam", "adamw", EITHER_ADAM, "lion", "lars", "lamb", "fromage", "muon")
"""Kinds whose settings are computed with; those of others are shown alone."""
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""Slots of the shape of their parameter, in those kinds."""


def require_sound(state: OptimizerState) -> None:
    """Raises InputError for what no rule could have been trained with, such as a momentum of 1 or moments of two sizes.

    What the entries of its tensors are is not looked at.
    """
    if optimizer_kind(state) not in RULES:
        return
    for group in state.groups:
        for name, (fits, expected) in _EXPECTED.items():
            value = _plain(group.settings.get(name))
            if value is not None and not fits(value):
                raise _unsound(f"says {name} = {_shown(value)}", expected)
    for slot in state.slots.values():
        _require_sound_slot(slot.stored if isinstance(slot, UnreadSlot) else slot)


def _require_sound_slot(slot: Mapping[str, Any]) -> None:
    steps = _plain(slot.get("step"))
    if steps is not None and not _not_negative(steps):
        raise _unsound(f"says step = {_shown(steps)}", "a number, 0 or above")
    shapes = {}
    for name in MOMENTS:
        value = slot.get(name)
        if value is None:
            continue
        dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        if not dtype.startswith(("float", "bfloat")) or not hasattr(value, "shape"):
            raise _unsound(f"holds {name} as {dtype}", "a tensor of floating numbers")
        shapes[name] = list(value.shape)
    for name, shape in shapes.items():
        if shape != next(iter(shapes.values())):
            raise _unsound(f"holds {name} of shape {shape} beside {next(iter(shapes.values()))}", "one shape")


def _unsound(found: str, expected: str) -> InputError:
    return InputError(
        f"The optimizer's state {found}; expected {expected}.",
        "The file is damaged, or written by other code than it seems: inspect shows what it holds, and "
        "--optimizer-state names another.",
    )


def _plain(value: Any) -> Any:
    """A tensor of one number as that number."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", ()) in ((), (1,)) else value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else brief(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _not_negative(value: Any) -> bool:
    return _is_number(value) and value >= 0.0


def _below_one(value: Any) -> bool:
    return _is_number(value) and 0.0 <= value < 1.0


def _two_below_one(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_below_one(_plain(beta)) for beta in value)


_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_not_negative, "a number, 0 or above"),
    "weight_decay": (_not_negative, "a number, 0 or above"),
    "momentum": (_below_one, "a number from 0 to below 1"),
    "dampening": (_is_number, "a number"),
    "betas": (_two_below_one, "two numbers from 0 to below 1"),
    "eps": (_not_negative, "a number, 0 or above"),
    "trust_coefficient": (_not_negative, "a number, 0 or above"),
    "trust_coeff": (_not_negative, "a number, 0 or above"),
}
