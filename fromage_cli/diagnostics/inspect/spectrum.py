"""Singular values of weight matrices: spectral norm, stable rank, condition number."""

import math
from dataclasses import replace

import torch

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.inspect.result import TensorResult
from fromage_cli.theory.singular_values import as_matrix, spectral_norm

DENSE = 1024
"""Matrices whose smaller side is at most this are decomposed; of larger ones only the spectral norm is found."""


def with_spectrum(tensor: TensorResult, checkpoint: Checkpoint) -> TensorResult:
    """The tensor with its singular values' numbers, where it is a finite matrix of floating-point numbers."""
    entry = checkpoint.entries[tensor.name]
    if not entry.floating or len(entry.shape) < 2 or not entry.elements or not math.isfinite(tensor.norm or 0.0):
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
