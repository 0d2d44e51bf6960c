"""What a distance will cost on this machine, told beforehand from small trials."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.reading_cost import chunk_seconds
from fromage_cli.process_memory import largest_resident
from fromage_cli.terminal.answer import Estimate
from fromage_cli.theory.spectra import DENSE

if TYPE_CHECKING:
    from fromage_cli.problem.evaluation.problem import Problem

TRIAL = 256
"""Side of the matrix whose singular values are timed."""
ITERATIONS = 30
"""Products with a matrix and its transpose for one spectral norm."""


def estimate(
    problem: "Problem | None", pair: tuple[Checkpoint, Checkpoint], names: Sequence[str], spectrum: bool
) -> Estimate:
    """Reading and singular values, and with a model two forward passes."""
    seconds, memory = measure_cost(*pair, names, spectrum)
    if problem is None:
        return Estimate(0.0, memory, seconds)
    from fromage_cli.probes.cost import measure_cost as gradient_cost

    whole = gradient_cost(problem)
    return Estimate(2 / 3, memory + whole.memory(copies=1.0), seconds + whole.time(2 / 3))


def measure_cost(first: Checkpoint, second: Checkpoint, names: Sequence[str], spectrum: bool) -> tuple[float, int]:
    """Seconds and peak bytes of the distance of all paired tensors, without the function part.

    Arithmetic on one chunk and three decompositions of one small matrix are timed, and both are scaled.
    """
    elements = sum(first.entries[name].elements for name in names)
    matrices = [first.entries[name] for name in names if len(first.entries[name].shape) > 1] if spectrum else []
    work = sum(_operations(entry.shape[0], entry.elements // entry.shape[0]) for entry in matrices)
    large = [min(entry.shape[0], entry.elements // entry.shape[0]) > DENSE for entry in matrices]
    # both matrices as they are held, two in float32 or four in float64 where one is decomposed
    held = [entry.elements * (2 * 4 if one else 4 * 8) for entry, one in zip(matrices, large, strict=True)]
    matrix = numpy.random.default_rng(0).standard_normal((TRIAL, TRIAL))
    started = time.monotonic()
    for _ in range(3):
        numpy.linalg.svd(matrix, compute_uv=False)
    decompositions = (time.monotonic() - started) * work / _operations(TRIAL, TRIAL)
    seconds = chunk_seconds() * elements / CHUNK + decompositions
    return seconds, (largest_resident() or 0) + 8 * 6 * CHUNK + max(held, default=0)


def _operations(rows: int, columns: int) -> float:
    """Arithmetic of three sets of singular values, or of three spectral norms where there are too many."""
    short, long = sorted((rows, columns))
    return 3.0 * short**2 * long if short <= DENSE else 2.0 * ITERATIONS * short * long
