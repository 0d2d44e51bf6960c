"""Units that no row of the batch switches on: outputs of ReLU, and of what is zero like it, that are 0 throughout."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fromage_cli.problem.networks.layers import unwrapped

RECTIFIERS = {"relu", "relu6"}
"""Functions of torch that are exactly 0 for every negative number; an underscore behind them writes in place."""
CLAMPS = {"clamp": "min", "clip": "min", "clamp_min": "min", "hardtanh": "min_val"}
"""Functions that are so where their lower bound is 0, and what they call it; ReLU6 is such a `hardtanh`."""
CHANNELS_SECOND = {
    *(f"conv{dimensions}d" for dimensions in (1, 2, 3)),
    *(f"conv_transpose{dimensions}d" for dimensions in (1, 2, 3)),
    "batch_norm",
    "instance_norm",
    "group_norm",
}
"""Layers that have their units in the second dimension."""
FEATURES_LAST = {"linear", "layer_norm", "rms_norm", "matmul", "addmm"}
"""Layers that have them in the last one."""


@dataclass(frozen=True)
class ActivationUnits:
    """The units of one activation, and how many of them are 0 throughout the batch."""

    name: str
    """The innermost module that it belongs to."""
    after: str
    """The module of the last layer before it; empty where there is none."""
    units: int
    """Channels of a convolution, else features."""
    dead: int
    share: float
    """dead / units."""
    values: int
    """How many values of each unit were seen: rows times places."""
    usual: float | None
    """At how many of them a unit that is on at all is on, the median over such units; None where none is."""


class UnitWatcher(TorchFunctionMode):
    """Sees every rectifier that a network calls, over one or several passes.

    An activation that serves several layers counts once for each; called again behind the same layer, it counts as one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = {
            name: module
            for name, module in unwrapped(model).named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        }
        self._running: list[str] = []
        """The modules that run at present, the innermost last."""
        self._layer, self._width, self._second = "", 0, False
        """Of the last layer: its module, how many units it has, and whether these are its second dimension."""
        self._lit: dict[tuple[str, str, int], Tensor] = {}
        """At how many values each unit was on; by module, layer before and number of units."""
        self._values: dict[tuple[str, str, int], int] = {}

    def __enter__(self) -> "UnitWatcher":
        self._hooks = ExitStack()
        for name, module in self.modules.items():
            self._hooks.callback(module.register_forward_pre_hook(partial(self._enters, name)).remove)
            self._hooks.callback(module.register_forward_hook(partial(self._leaves, name)).remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def _enters(self, name: str, *_: Any) -> None:
        self._running.append(name)

    def _leaves(self, name: str, *_: Any) -> None:
        while self._running.pop() != name:  # a module that has failed did not leave
            continue

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Sees a call of torch; what the loss calls outside of the network does not count."""
        output = func(*args, **(kwargs or {}))
        if self._running and isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            name = getattr(func, "__name__", "").strip("_")
            if name in CHANNELS_SECOND or name in FEATURES_LAST:
                self._layer, self._second = self._running[-1], name in CHANNELS_SECOND
                self._width = output.shape[1 if self._second else -1]
            elif name in RECTIFIERS or _is_clamped_at_zero(name, args, kwargs or {}):
                self._note(output.detach())
        return output

    def _note(self, output: Tensor) -> None:
        """Adds the values of one call; what is not a number counts as switched on."""
        shape, axis = output.shape, output.ndim - 1
        if self._second and (shape[1] == self._width or shape[-1] != self._width):
            axis = 1
        key = self._running[-1], self._layer, shape[axis]
        lit = (~(output <= 0.0)).transpose(0, axis).flatten(1).sum(1)
        self._lit[key] = self._lit[key] + lit if key in self._lit else lit
        self._values[key] = self._values.get(key, 0) + output.numel() // max(1, shape[axis])

    @property
    def units(self) -> tuple[ActivationUnits, ...]:
        """What was seen so far, in the order of the calls."""
        found = []
        for (name, after, units), lit in self._lit.items():
            on, values = lit[lit > 0], self._values[name, after, units]
            dead = units - len(on)
            usual = float(on.double().median()) if len(on) else None
            found.append(ActivationUnits(name, after, units, dead, dead / units, values, usual))
        return tuple(found)


def _is_clamped_at_zero(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name not in CLAMPS:
        return False
    lower = args[1] if len(args) > 1 else kwargs.get(CLAMPS[name])
    return isinstance(lower, int | float) and lower == 0.0
