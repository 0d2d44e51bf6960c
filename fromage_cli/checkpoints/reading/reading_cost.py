"""What it costs to read and reduce the tensors of checkpoints, estimated from a trial or from a part."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.chunks import threads
from fromage_cli.checkpoints.reading.reductions import measure_norms
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS
from fromage_cli.process_memory import largest_resident

SAMPLE = 1 << 24
"""Elements that are read to tell the speed, more where the first tensor has more."""
BUFFER_BYTES = 16
"""Bytes in use for an element of a chunk: as stored, widened, and told whether zero."""
PROGRAM_BYTES = 30_000_000
"""Bytes that the program itself takes, with NumPy and without torch."""


@dataclass(frozen=True)
class ReductionCost:
    """What reading and reducing takes."""

    seconds: float
    bytes: int
    """Peak memory: the program, buffers, and the largest tensor where a format can only be read by whole tensors."""


def reading_cost(checkpoints: Sequence[Checkpoint], names: Iterable[str]) -> tuple[int, float]:
    """Return peak bytes and seconds for norms and angles of the named tensors in every checkpoint."""
    elements = sum(checkpoints[-1].entries[name].elements for name in names) * len(checkpoints)
    return (largest_resident() or 0) + 6 * 8 * CHUNK, chunk_seconds() * elements / CHUNK


def chunk_seconds() -> float:
    """Return the seconds of two passes over a chunk of each of two checkpoints."""
    import numpy

    stored = numpy.ones(CHUNK, numpy.float32)
    started = time.monotonic()
    for _ in range(2):
        first, second = stored.astype(numpy.float64), stored.astype(numpy.float64)
        for part in (first / 2.0, second / 2.0, first / 3.0 - second / 3.0):
            part @ part
    return time.monotonic() - started


def reduction_cost(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str] | None = None,
    reduce: Callable[[Checkpoint, Sequence[str]], object] = lambda checkpoint, names: measure_norms(
        [checkpoint], names
    ),
) -> ReductionCost:
    """Return the cost of a reduction of the named tensors of every checkpoint, all of them without names.

    Reads the first tensors of the last checkpoint; what is not yet in the page cache takes longer afterwards.
    """
    last = checkpoints[-1]
    wanted = last.entries if names is None else names
    known = [name for name in wanted if last.entries[name].dtype in WIDTHS]
    sizes = [last.entries[name].elements for name in known]
    few = [name for name, before in zip(known, accumulate([0, *sizes]), strict=False) if before < SAMPLE]
    started = time.perf_counter()
    reduce(last, few)
    seconds = time.perf_counter() - started
    read = sum(last.entries[name].elements for name in few)
    share = len(checkpoints) * sum(sizes) / read if read else 0.0
    unstreamed = [last.entries[name] for name in known if name not in last.spans]
    whole = max((entry.elements * WIDTHS[entry.dtype] for entry in unstreamed), default=0)
    return ReductionCost(seconds * share, PROGRAM_BYTES + threads() * (CHUNK * BUFFER_BYTES + whole))
