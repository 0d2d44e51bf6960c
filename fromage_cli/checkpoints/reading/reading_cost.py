"""What it costs to read tensors of checkpoints chunk by chunk, told from a trial."""

import time
from collections.abc import Iterable, Sequence

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import FLOAT64_CHUNK
from fromage_cli.process_memory import largest_resident


def reading_cost(checkpoints: Sequence[Checkpoint], names: Iterable[str]) -> tuple[int, float]:
    """Return peak bytes and seconds for norms and angles of the named tensors in every checkpoint."""
    elements = sum(checkpoints[-1].entries[name].elements for name in names) * len(checkpoints)
    return resident_bytes() + 6 * 8 * FLOAT64_CHUNK, chunk_seconds() * elements / FLOAT64_CHUNK


def resident_bytes() -> int:
    """Return the largest resident size of this process so far, without torch."""
    return largest_resident() or 0


def chunk_seconds() -> float:
    """Return the seconds of two passes over a chunk of each of two checkpoints."""
    import numpy

    stored = numpy.ones(FLOAT64_CHUNK, numpy.float32)
    started = time.monotonic()
    for _ in range(2):
        first, second = stored.astype(numpy.float64), stored.astype(numpy.float64)
        for part in (first / 2.0, second / 2.0, first / 3.0 - second / 3.0):
            part @ part
    return time.monotonic() - started
