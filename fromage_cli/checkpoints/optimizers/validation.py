"""Whether what an optimizer's state holds, settings and slots, is what its rule can have."""

from collections.abc import Mapping
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, as_stored
from fromage_cli.errors import InputError
from fromage_cli.optimizers.recognition import ADAM_ALIKE
from fromage_cli.optimizers.rule import ADAMW, BOUNDS, NOT_NEGATIVE, RULES

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "variance")
"""Slots of the shape of their parameter, in every rule."""
FACTORS = ("row_var", "col_var")
"""Slots that hold one moment of a matrix together."""


def require_sound(state: OptimizerState) -> None:
    """Raises InputError for what no rule can train with, such as a momentum of 1 or moments of two sizes.

    What the entries of its tensors are is not looked at.
    """
    if len(state.parts) > 1:
        for part in state.parts:
            require_sound(part)
        return
    rule = ADAMW.name if state.kind == ADAM_ALIKE else state.settings.rule
    if rule is None:
        return
    bounds = {**BOUNDS, **RULES[rule].bounds}
    for group in state.groups:
        for name, bound in bounds.items():
            value = _plain(group.settings.get(name))
            value = [_plain(part) for part in value] if isinstance(value, list | tuple) else value
            if value is not None and not bound.fits(value):
                raise _unsound(f"says {name} = {_shown(value)}", bound.expected)
    for slot in state.slots.values():
        _require_sound_slot(as_stored(slot))


def _require_sound_slot(stored: Mapping[str, Any]) -> None:
    """Raises InputError for a step that is no number, and for moments that are not floating or differ in shape."""
    steps = _plain(stored.get("step"))
    if steps is not None and not NOT_NEGATIVE.fits(steps):
        raise _unsound(f"says step = {_shown(steps)}", NOT_NEGATIVE.expected)
    factors = [name for name in FACTORS if stored.get(name) is not None]
    if len(factors) == 1:
        raise _unsound(f"holds {factors[0]} without the other factor", " and ".join(FACTORS))
    shapes = {}
    for name in (*MOMENTS, *factors):
        value = stored.get(name)
        if value is None:
            continue
        dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        if not dtype.startswith(("float", "bfloat")) or not hasattr(value, "shape"):
            raise _unsound(f"holds {name} as {dtype}", "a tensor of floating numbers")
        if name not in FACTORS:
            shapes[name] = list(value.shape)
    for name, shape in shapes.items():
        if shape != next(iter(shapes.values())):
            raise _unsound(f"holds {name} of shape {shape} beside {next(iter(shapes.values()))}", "one shape")


def _unsound(found: str, expected: str) -> InputError:
    return InputError(
        f"The optimizer's state {found}; expected {expected}.",
        "The file is damaged, or was written by other code. inspect shows what it holds. To use "
        "another state or none, give --optimizer-state.",
    )


def _plain(value: Any) -> Any:
    """A tensor of one number as that number."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", ()) in ((), (1,)) else value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else brief(value)
