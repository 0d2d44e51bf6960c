"""Singular values of weight matrices: spectral norm, stable rank, condition number."""

import math
import time
from dataclasses import replace

import torch

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.diagnostics.inspect.result import TensorResult
from fromage_cli.theory.singular_values import as_matrix, spectral_norm

DENSE = 1024
"""Matrices whose smaller side is at most this are decomposed; of larger ones only the spectral norm is found."""

TRIAL = 192
"""Side of the matrix that is decomposed to tell the speed."""
WITH_TORCH = 300_000_000
"""Bytes of a program with torch."""


def with_spectrum(tensor: TensorResult, checkpoint: Checkpoint) -> TensorResult:
    """The tensor with its singular values' numbers, where it is a finite matrix of floating-point numbers."""
    if not _is_matrix(checkpoint.entries[tensor.name]) or not math.isfinite(tensor.norm or 0.0):
        return tensor
    matrix = as_matrix(checkpoint.tensor(tensor.name))
    condition = None
    if min(matrix.shape) <= DENSE:
        values = torch.linalg.svdvals(matrix.double())
        largest, smallest = float(values[0]), float(values[-1])
        negligible = largest * max(matrix.shape) * torch.finfo(torch.float64).eps
        condition = largest / smallest if smallest > negligible else math.inf
    else:
        largest = spectral_norm(matrix.float())
    norm = tensor.norm or 0.0
    return replace(
        tensor,
        spectral_norm=largest,
        stable_rank=(norm / largest) ** 2 if largest > 0.0 else 1.0,
        condition_number=condition,
    )


def _is_matrix(entry: TensorEntry) -> bool:
    return entry.floating and len(entry.shape) > 1 and entry.elements > 0


def spectrum_cost(checkpoint: Checkpoint) -> tuple[float, int]:
    """Seconds for the singular values of every matrix, told from one decomposition, and peak bytes with torch."""
    trial = torch.eye(TRIAL, dtype=torch.float64)
    started = time.perf_counter()
    torch.linalg.svdvals(trial)
    unit = (time.perf_counter() - started) / TRIAL**3
    sides = [
        (entry.shape[0], entry.elements // entry.shape[0]) for entry in checkpoint.entries.values() if _is_matrix(entry)
    ]
    work = sum(rows * columns * min(rows, columns, DENSE) for rows, columns in sides)
    return unit * work, WITH_TORCH + 16 * max((rows * columns for rows, columns in sides), default=0)
