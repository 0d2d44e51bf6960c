"""Tensors of a checkpoint as float64 numbers in their own order, a chunk at a time; safetensors without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.widening import real_numbers
from fromage_cli.checkpoints.storage.files import incomplete, opened
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

CHUNK = 1 << 16
"""Elements at a time, counted from a tensor's first: what is read and made of them stays in the processor's cache.

Norms are sums over these chunks, so that equal bytes have equal norms wherever they lie.
"""


def stored_chunks(checkpoint: Checkpoint, name: str, size: int) -> Iterator[NDArray[Any]]:
    """Yield the stored bytes of a tensor in their order, (size,) uint8; the last chunk is shorter.

    Raises InputError when the file is cut off or changes meanwhile.
    """
    import numpy

    span = checkpoint.spans.get(name)
    if span is None:
        stored = stored_bytes(checkpoint, name)
        yield from (stored[begin : begin + size] for begin in range(0, len(stored), size))
        return
    span.check()
    path = span.version.path
    span.version.check_unchanged()
    with opened(path) as file:
        for begin in range(span.begin, span.end, size):
            count = min(size, span.end - begin)
            file.seek(begin)
            part = file.read(count)
            if len(part) < count:
                raise incomplete(path, span.end, begin + len(part))
            yield numpy.frombuffer(part, numpy.uint8)
    span.version.check_unchanged()


def stored_bytes(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    """Return the bytes of a tensor that its own reader has to make: (bytes,) uint8."""
    return bytes_of(checkpoint.tensor(name))


def bytes_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return the bytes of a tensor in memory, element by element in order: (bytes,) uint8."""
    import torch

    stored: NDArray[Any] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return stored


def array_chunks(checkpoint: Checkpoint, name: str) -> Iterator[NDArray[Any]]:
    """Yield the elements of a real tensor in their order, float64, CHUNK at a time; the last chunk is shorter.

    Raises InputError when the file is cut off or changes meanwhile.
    """
    dtype = checkpoint.entries[name].dtype
    for stored in stored_chunks(checkpoint, name, CHUNK * WIDTHS[dtype]):
        yield real_numbers(stored, dtype)


def load_matrix(checkpoint: Checkpoint, name: str, *, narrow: bool = False) -> NDArray[Any]:
    """Read a tensor of two or more dimensions as the matrix of its linear map: first dimension x all others.

    It is held in float64; with `narrow` in float32 where it is stored in no more, for large ones.
    """
    import numpy

    entry = checkpoint.entries[name]
    flat = numpy.empty(entry.elements, numpy.float32 if narrow and WIDTHS[entry.dtype] <= 4 else numpy.float64)
    begin = 0
    for chunk in array_chunks(checkpoint, name):
        flat[begin : begin + chunk.size] = chunk
        begin += chunk.size
    return flat.reshape(entry.shape[0], -1)  # [out, in*kh*kw]
