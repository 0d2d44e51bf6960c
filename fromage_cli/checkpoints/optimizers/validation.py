"""Whether what an optimizer's state holds, settings and slots, is what its rule can have."""

from __future__ import annotations

from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, UnreadSlot
from fromage_cli.errors import InputError
from fromage_cli.optimizers.rule import BOUNDS, NOT_NEGATIVE

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")
"""Slots of the shape of their parameter, in every rule."""


def require_sound(state: OptimizerState) -> None:
    """Raises InputError for what no rule could have been trained with, such as a momentum of 1 or moments of two sizes.

    What the entries of its tensors are is not looked at.
    """
    if state.settings.rule is None:
        return
    for group in state.groups:
        for name, bound in BOUNDS.items():
            value = _plain(group.settings.get(name))
            value = [_plain(part) for part in value] if isinstance(value, list | tuple) else value
            if value is not None and not bound.fits(value):
                raise _unsound(f"says {name} = {_shown(value)}", bound.expected)
    for slot in state.slots.values():
        stored = slot.stored if isinstance(slot, UnreadSlot) else slot
        steps = _plain(stored.get("step"))
        if steps is not None and not NOT_NEGATIVE.fits(steps):
            raise _unsound(f"says step = {_shown(steps)}", NOT_NEGATIVE.expected)
        shapes = {}
        for name in MOMENTS:
            value = stored.get(name)
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
