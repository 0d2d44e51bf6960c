"""Tensors of a checkpoint as float64 numbers in their own order, a chunk at a time; safetensors without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint, Span
from fromage_cli.checkpoints.reading.widening import real_numbers
from fromage_cli.checkpoints.storage.dtypes import WIDTHS
from fromage_cli.checkpoints.storage.files import explained, incomplete, opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 1 << 18
"""Elements at a time: two megabytes as float64."""


def array_chunks(checkpoint: Checkpoint, name: str, size: int | None = None) -> Iterator[NDArray[Any]]:
    """The elements of a real tensor in their order, (size,) float64, CHUNK at a time; the last one is shorter.

    Raises InputError when the file is cut off or changes meanwhile.
    """
    dtype, span = checkpoint.entries[name].dtype, checkpoint.spans.get(name)
    count = (size or CHUNK) * WIDTHS[dtype]
    if span is not None:
        span.check()
    parts = _stored(checkpoint, name, count) if span is None else _read(span, count)
    for stored in parts:
        yield real_numbers(stored, dtype)


def load_matrix(checkpoint: Checkpoint, name: str, *, narrow: bool = False) -> NDArray[Any]:
    """A tensor of two or more dimensions as the matrix of its linear map: first dimension x all others.

    In float64; `narrow` holds in float32 what is stored in no more, for large ones.
    """
    import numpy

    entry = checkpoint.entries[name]
    flat = numpy.empty(entry.elements, numpy.float32 if narrow and WIDTHS[entry.dtype] <= 4 else numpy.float64)
    begin = 0
    for chunk in array_chunks(checkpoint, name):
        flat[begin : begin + chunk.size] = chunk
        begin += chunk.size
    return flat.reshape(entry.shape[0], -1)  # [out, in*kh*kw]


def _read(span: Span, size: int) -> Iterator[NDArray[Any]]:
    import numpy

    path = span.version.path
    span.version.check_unchanged()
    with opened(path) as file:
        for begin in range(span.begin, span.end, size):
            with explained(path):
                file.seek(begin)
                stored = file.read(min(size, span.end - begin))
            if len(stored) < min(size, span.end - begin):
                raise incomplete(path, span.end, begin + len(stored))
            yield numpy.frombuffer(stored, numpy.uint8)
    span.version.check_unchanged()


def _stored(checkpoint: Checkpoint, name: str, size: int) -> Iterator[NDArray[Any]]:
    """The bytes of a tensor that its own reader has to make."""
    import torch

    stored: NDArray[Any] = checkpoint.tensor(name).contiguous().reshape(-1).view(torch.uint8).numpy()
    yield from (stored[begin : begin + size] for begin in range(0, len(stored), size))
