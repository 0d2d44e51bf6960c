"""Singular values of weight matrices: spectral norm, stable rank, condition number; of safetensors without torch."""

import math
import time
from dataclasses import replace

import numpy

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.reading.arrays import load_matrix
from fromage_cli.diagnostics.inspect.result import TensorResult
from fromage_cli.missing import Missing, Why
from fromage_cli.theory import spectra

TRIAL = 192
"""Side of the matrix that is decomposed to tell the speed."""
PROGRAM = 40_000_000
"""Bytes of the program with numpy."""
COPIES = 3
"""Float64 matrices at a time: the weights, and what decomposing them takes."""
NO_MATRIX = Missing(Why.NOT_DEFINED, "it is no matrix of floating-point numbers")
NOT_FINITE = Missing(Why.ZERO_OR_NOT_FINITE, "an entry is not finite")
TOO_LARGE = Missing(Why.TOO_LARGE, f"the matrix has more than {spectra.DENSE} rows and columns")


def with_spectrum(tensor: TensorResult, checkpoint: Checkpoint) -> TensorResult:
    """The tensor with its singular values' numbers, where it is a finite matrix of floating-point numbers."""
    entry, norm = checkpoint.entries[tensor.name], tensor.norm
    if not _is_matrix(entry) or isinstance(norm, Missing) or not math.isfinite(norm):
        none = NOT_FINITE if _is_matrix(entry) else NO_MATRIX
        if isinstance(norm, Missing):
            none = norm
        return replace(tensor, spectral_norm=none, stable_rank=none, condition_number=none)
    narrow = min(_sides(entry)) > spectra.DENSE
    largest, condition = spectra.extremes(load_matrix(checkpoint, tensor.name, narrow=narrow))
    return replace(
        tensor,
        spectral_norm=largest,
        stable_rank=(norm / largest) ** 2 if largest > 0.0 else 1.0,
        condition_number=TOO_LARGE if condition is None else condition,
    )


def _is_matrix(entry: TensorEntry) -> bool:
    """Whether it has singular values."""
    return entry.floating and len(entry.shape) > 1 and entry.elements > 0


def _sides(entry: TensorEntry) -> tuple[int, int]:
    """Rows and columns of the matrix of the linear map."""
    return entry.shape[0], entry.elements // entry.shape[0]


def spectrum_work(entry: TensorEntry) -> float:
    """What its singular values take, about, in elements that are read."""
    return spectra.decomposition_work(entry.shape) if _is_matrix(entry) else 0.0


def spectrum_cost(checkpoint: Checkpoint) -> tuple[float, int]:
    """Seconds for the singular values of every matrix, told from one decomposition, and peak bytes."""
    trial = numpy.eye(TRIAL)
    started = time.perf_counter()
    numpy.linalg.svd(trial, compute_uv=False)
    unit = (time.perf_counter() - started) / TRIAL**3
    sides = [_sides(entry) for entry in checkpoint.entries.values() if _is_matrix(entry)]
    work = sum(rows * columns * min(rows, columns, spectra.DENSE) for rows, columns in sides)
    # in float32 where only the spectral norm is found
    held = [math.prod(each) * (2 * 4 if min(each) > spectra.DENSE else COPIES * 8) for each in sides]
    return unit * work, PROGRAM + max(held, default=0)
