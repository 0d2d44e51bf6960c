"""What a network or a loss keeps between calls, put back so that every call finds the same."""

import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fromage_cli.problem.conditions.independent_copy import independent_copy
from fromage_cli.problem.user_code.generators import OWN_GENERATORS, put_state, state_of

MOST = 50_000
"""Values that are looked at: what is held beyond them is left as it is."""
_PLAIN = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size, nn.Parameter}
    | {FunctionType, BuiltinFunctionType, ModuleType}
)
"""Types of what does not change, or is no state."""
_STRUCTURE = frozenset(vars(nn.Module())) - {"_buffers", "_non_persistent_buffers_set"}
"""Attributes of every module that say how it is built."""
_TOOLS = sys.stdlib_module_names - {"types"} | {"torch", "fromage_cli"}
"""Packages whose own objects are no state, such as loggers and locks."""


class KeptState:
    """What some objects hold beside parameters, as it stands: buffers and attributes, as deep as containers go.

    Tensors, arrays, numbers, containers and random generators are put back; a function that was put into an attribute
    stays, since that is how a module keeps what it compiled. Copies of tensors take memory once they are written into.
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self.generators: list[Any] = []
        """The random generators among what they hold."""
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._items: list[tuple[Any, list[object]]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._others: list[Callable[[], None]] = []
        self._seen: dict[int, object] = {}
        self._waiting = [*roots]
        while self._waiting and len(self._seen) < MOST:
            value = self._waiting.pop()
            if type(value) not in _PLAIN and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._keep(value)

    def put_back(self) -> None:
        """Puts back what was written or replaced since."""
        for held, kept in self._dicts:
            if not _same(held, kept):
                for name in [name for name, value in held.items() if name not in kept and not callable(value)]:
                    del held[name]
                held.update({name: value for name, value in kept.items() if not callable(held.get(name))})
        for group, items in self._items:
            if len(group) != len(items) or not all(map(is_, group, items)):
                group.clear()
                (group.update if isinstance(group, set) else group.extend)(items)
        with torch.no_grad():
            for tensor, copy in self._tensors:
                if not _share_memory(tensor, copy):
                    tensor.copy_(copy)
        for restore in self._others:
            restore()

    def _keep(self, value: Any) -> None:
        """Remembers one value; those that it holds wait to be remembered."""
        if isinstance(value, nn.Module):
            self._keep_module(value)
        elif isinstance(value, Tensor):
            if value.layout is torch.strided and not (value.is_nested or value.is_meta or value.is_inference()):
                self._tensors.append((value, independent_copy(value.detach())))
        elif isinstance(value, dict):
            self._dicts.append((value, dict(value)))
            self._waiting += value.values()
        elif isinstance(value, list | deque | set):
            self._items.append((value, list(value)))
            self._waiting += value
        elif isinstance(value, tuple):
            self._waiting += value
        elif isinstance(value, np.ndarray):
            if value.flags.writeable:
                self._others.append(partial(np.copyto, value, value.copy()))
        elif isinstance(value, OWN_GENERATORS):
            self.generators.append(value)
            self._others.append(partial(put_state, value, state_of(value)))
        elif isinstance(value, MethodType):
            self._waiting.append(value.__self__)
        elif type(value).__module__.partition(".")[0] not in _TOOLS:
            self._waiting.append(getattr(value, "__dict__", None))

    def _keep_module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):  # shows its buffers alone, and in no other way
            buffers = _scripted_buffers(module)
            self._waiting += (*buffers.values(), *module.children())
            self._others.append(partial(_put_back_buffers, module, buffers))
            return
        held = module.__dict__
        self._dicts.append((held, held.copy()))
        self._waiting += [value for name, value in held.items() if name not in _STRUCTURE]
        self._waiting += module._modules.values()


def may_hold_state(module: nn.Module) -> bool:
    """Whether it has buffers, or is not one of torch's own modules, which keep nothing else."""
    return bool(module._buffers) or not type(module).__module__.startswith("torch.nn.modules.")


def _same(held: dict[Any, Any], kept: dict[Any, Any]) -> bool:
    """Whether they hold the same objects, or others that equal them."""
    try:
        return held == kept
    except Exception:  # tensors, arrays and what holds them have no single answer where they differ
        return False


def _share_memory(tensor: Tensor, copy: Tensor) -> bool:
    """Whether nothing was written since the copy was made; batch normalisation, for one, counts no version."""
    address = torch._C._data_address  # type: ignore[attr-defined]
    return type(tensor) is Tensor and bool(address(tensor) == address(copy))


def _scripted_buffers(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_buffers(recurse=False, remove_duplicate=False))


def _put_back_buffers(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """The buffers themselves, where others took their places."""
    now = _scripted_buffers(module)
    for name, buffer in buffers.items():
        if now.get(name) is not buffer:
            setattr(module, name, buffer)
