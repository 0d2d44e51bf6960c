"""Numbers of tensors that were read before, where commands share what they read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.storage.sharing import kept

Number = TypeVar("Number")


def recall(kind: type[Number], names: Iterable[str], *checkpoints: Checkpoint) -> dict[str, Number]:
    """Return what is known of the named tensors in these checkpoints together, by name."""
    known = kept()
    found = {name: known.get(_key(kind, name, checkpoints)) for name in names} if known else {}
    return {name: number for name, number in found.items() if number is not None}


def remember(found: Mapping[str, Any], *checkpoints: Checkpoint) -> None:
    """Keep what was found of tensors, by name. What has no plain bytes at a known place is not kept."""
    known = kept()
    for name, number in found.items():
        if all(name in one.spans for one in checkpoints):
            known[_key(type(number), name, checkpoints)] = number


def _key(kind: type[Any], name: str, checkpoints: Sequence[Checkpoint]) -> tuple[object, ...]:
    """The kind of number, and which bytes of which version of a file it was taken from."""
    return (kind, *((one.entries[name], one.spans.get(name)) for one in checkpoints))
