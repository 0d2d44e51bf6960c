"""What a distance will cost on this machine, told beforehand from small trials."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.reading_cost import chunk_seconds, resident_bytes
from fromage_cli.theory.spectra import DENSE

TRIAL = 256
"""Side of the matrix whose singular values are timed."""
ITERATIONS = 30
"""Products with a matrix and its transpose for one spectral norm."""


@dataclass(frozen=True)
class Cost:
    """Of all paired tensors."""

    bytes: int
    """Peak memory."""
    seconds: float


def measure_cost(first: Checkpoint, second: Checkpoint, names: Sequence[str], spectrum: bool) -> Cost:
    """Times arithmetic on one chunk and the singular values of one small matrix, and scales both."""
    elements = sum(first.entries[name].elements for name in names)
    matrices = [first.entries[name] for name in names if len(first.entries[name].shape) > 1] if spectrum else []
    work = sum(_operations(entry.shape[0], entry.elements // entry.shape[0]) for entry in matrices)
    largest = max((_held(entry) for entry in matrices), default=0)
    return Cost(
        bytes=resident_bytes() + 8 * 6 * CHUNK + largest,
        seconds=chunk_seconds() * elements / CHUNK + _trial_seconds() * work / _operations(TRIAL, TRIAL),
    )


def _held(entry: TensorEntry) -> int:
    """Bytes of both matrices, as they are held, and of what decomposing one takes."""
    large = min(entry.shape[0], entry.elements // entry.shape[0]) > DENSE
    return entry.elements * (2 * 4 if large else 4 * 8)


def _operations(rows: int, columns: int) -> float:
    """Of three sets of singular values, or three spectral norms where there are too many."""
    short, long = sorted((rows, columns))
    return 3.0 * short**2 * long if short <= DENSE else 2.0 * ITERATIONS * short * long


def _trial_seconds() -> float:
    matrix = numpy.random.default_rng(0).standard_normal((TRIAL, TRIAL))
    started = time.monotonic()
    for _ in range(3):
        numpy.linalg.svd(matrix, compute_uv=False)
    return time.monotonic() - started
