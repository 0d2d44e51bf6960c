"""Tensors of one checkpoint that hold the same bytes under several names."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping

from fromage_cli.checkpoints.checkpoint import Checkpoint, Span
from fromage_cli.checkpoints.storage.files import opened
from fromage_cli.theory.magnitudes import Magnitudes

BLOCK = 1 << 20
"""Bytes read at a time."""
SAME_SIZE = 1e-6
"""Entries whose norm is that of equal absolute values up to this are a constant, as in fresh gains and biases."""


def find_duplicates(checkpoint: Checkpoint, found: Mapping[str, Magnitudes]) -> tuple[tuple[str, ...], ...]:
    """Groups of names whose tensors agree bit by bit; constant tensors and those known to be tied are no news.

    Only tensors whose magnitudes agree are read again.
    """
    copies = {name for group in checkpoint.tied for name in group[1:]}
    alike: dict[object, list[str]] = {}
    for name, magnitudes in found.items():
        if name not in copies and not _constant(magnitudes):
            entry = checkpoint.entries[name]
            alike.setdefault((entry.dtype, entry.shape, magnitudes), []).append(name)
    groups: dict[bytes, list[str]] = {}
    for name in (name for names in alike.values() if len(names) > 1 for name in names):
        groups.setdefault(_digest(checkpoint, name), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _constant(magnitudes: Magnitudes) -> bool:
    """Whether all entries may be of one absolute value; nan too, which equals nothing."""
    full = magnitudes.largest * math.sqrt(magnitudes.elements)
    return magnitudes.elements < 2 or not magnitudes.norm < full * (1 - SAME_SIZE)


def _digest(checkpoint: Checkpoint, name: str) -> bytes:
    digest = hashlib.blake2b(repr((checkpoint.entries[name].dtype, checkpoint.entries[name].shape)).encode())
    for block in _blocks(checkpoint, name):
        digest.update(block)
    return digest.digest()


def _blocks(checkpoint: Checkpoint, name: str) -> Iterable[bytes | memoryview]:
    span = checkpoint.spans.get(name)
    if span is not None:
        span.check()
        return _read(span)
    import torch

    return [checkpoint.tensor(name).reshape(-1).view(torch.uint8).numpy().data]


def _read(span: Span) -> Iterator[bytes]:
    with opened(span.version.path) as file:
        file.seek(span.begin)
        for begin in range(span.begin, span.end, BLOCK):
            yield file.read(min(BLOCK, span.end - begin))
