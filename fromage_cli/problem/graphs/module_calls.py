"""Which modules a network calls, in their order, as they are called while it is traced."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

ROOT = "network"
"""What the network is called inside the module that is exported."""


class Calls:
    """Notes the calls of modules within the block, as a tree: one tree for each call of the network's root."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.last: list[Call] = []
        """The calls of the root in the last complete pass."""
        self.result: Any = None
        """How what the whole returned is arranged; kept here because torch.export sets a module's attributes back."""
        self._running: list[Call] = []
        self._counts: Counter[str] = Counter()
        self._block = contextlib.ExitStack()

    def __enter__(self) -> "Calls":
        for name, module in self.network.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                self._block.callback(module.register_forward_pre_hook(partial(self.entered, name), prepend=True).remove)
                self._block.callback(module.register_forward_hook(partial(self.left, name), always_call=True).remove)
        return self

    def __exit__(self, *raised: object) -> None:
        self._block.close()

    def begin(self) -> None:
        """A new pass begins."""
        self.last, self._running = [], []
        self._counts.clear()

    def entered(self, name: str, *_: Any) -> None:
        """A module begins to run."""
        call = Call(name, self._counts[name])
        self._counts[name] += 1
        (self._running[-1].inner if self._running else self.last).append(call)
        self._running.append(call)

    def left(self, name: str, *_: Any) -> None:
        """A module has run, or failed."""
        while self._running and self._running.pop().name != name:
            continue


@dataclass
class Call:
    """One call of a module."""

    name: str
    number: int
    inner: list["Call"] = field(default_factory=list)

    @property
    def path(self) -> str:
        """What torch.export calls it, in the module that was exported."""
        name = f"{ROOT}.{self.name}" if self.name else ROOT
        return f"{name}@{self.number}" if self.number else name


class Cursor:
    """The calls inside a block that were not written yet, in their order."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.left = list(calls)

    def up_to(self, path: str) -> tuple[list[Call], Call | None]:
        """The calls before that of this path, and that one; none where it is not among them."""
        for place, call in enumerate(self.left):
            if call.path == path:
                passed, self.left = self.left[:place], self.left[place + 1 :]
                return passed, call
        return [], None


def own_name(path: str) -> str:
    """A module's name in the network, from what torch.export calls its call."""
    return path.partition("@")[0].removeprefix(ROOT).removeprefix(".")
