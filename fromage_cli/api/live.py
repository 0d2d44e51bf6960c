"""The objects of the running program that a question is about, found by name as a command finds code.

A command takes code as `pkg.module:name`. Within `standing_in`, `fromage_cli.api.live:network` is such code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from fromage_cli.errors import MismatchError, UsageError, words_of

if TYPE_CHECKING:
    from torch import nn

SAVE_A_BUNDLE = "Write a bundle with fromage_cli.bundle.save, and give its directory."
_OBJECTS: ContextVar[Mapping[str, Any] | None] = ContextVar("objects", default=None)


@contextmanager
def standing_in(objects: Mapping[str, Any]) -> Iterator[None]:
    """Within it the objects are attributes of this module, by their names."""
    token = _OBJECTS.set(objects)
    try:
        yield
    finally:
        _OBJECTS.reset(token)


def __getattr__(name: str) -> Any:
    """The object of that name; raises AttributeError where there is none."""
    objects = _OBJECTS.get() or {}
    if name not in objects:
        raise AttributeError(name)
    return objects[name]


def factory_of(model: nn.Module) -> Callable[[], nn.Module]:
    """A factory whose networks are copies of the model, so that nothing done to them reaches it.

    A copy has the modes, the buffers and the hooks of the model, and no gradients. Raises UsageError for a model whose
    weights are spread over several processes.
    """
    from fromage_cli.problem.networks.layers import unwrapped
    from fromage_cli.shards import is_sharded

    live = unwrapped(model)
    if any(map(is_sharded, live.parameters())):
        raise UsageError("The network is sharded, so one process cannot copy it.", SAVE_A_BUNDLE)

    def network() -> nn.Module:
        try:
            return deepcopy(live)
        except Exception as error:  # whatever a module of the user's holds
            raise MismatchError(f"The network cannot be copied: {words_of(error)}", SAVE_A_BUNDLE) from error

    return network
