"""Largest singular values and stable ranks of weight tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fromage_cli.shards import whole
from fromage_cli.theory.accumulation import norm

if TYPE_CHECKING:
    import torch

DENSE = 96
"""Matrices whose smaller side is at most this are decomposed exactly."""
SLAB = 1 << 14
"""Columns of a Gram matrix that are widened to float64 at a time."""
ITERATIONS = 60
"""Steps of the bidiagonalisation at most, a product with A and one with A^T each."""
TINY = 1e-9
"""Entries as small, or as large as its inverse, are scaled before they are squared."""


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A weight tensor as the matrix of its linear map: first dimension x all others, out x (in * kh * kw)."""
    return tensor.detach().reshape(tensor.shape[0], -1)  # [out, in*kh*kw]


def spectral_norm(tensor: torch.Tensor, tolerance: float = 1e-4) -> float:
    """The largest singular value of a weight tensor seen as a matrix, from below.

    Small matrices by a dense decomposition of the Gram matrix in float64; larger ones by Golub-Kahan bidiagonalisation
    with full re-orthogonalisation. It stops when the residual of the leading triplet is below `tolerance` times its
    value. The value then lies so near to a singular value, which a random start makes the largest. Source: Golub, Van
    Loan, *Matrix Computations*, 4th ed., section 10.4.
    """
    import torch

    matrix = as_matrix(whole(tensor.detach()))
    if not matrix.numel():
        return 0.0
    scale = max(-float(matrix.min()), float(matrix.max()))
    if not 0.0 < scale < math.inf:
        return scale
    if TINY < scale < 1.0 / TINY:
        scale = 1.0
    else:
        matrix = matrix / scale  # squares of tiny and of huge entries leave the range of float32
    if min(matrix.shape) <= DENSE:
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        gram = torch.zeros(wide.shape[0], wide.shape[0], dtype=torch.float64, device=wide.device)
        for slab in torch.split(wide, SLAB, dim=1):
            columns = slab.double()
            gram += columns @ columns.T
        return scale * float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0.0).sqrt())
    return scale * _golub_kahan(matrix if matrix.dtype == torch.float64 else matrix.float(), tolerance)


def stable_rank(tensor: torch.Tensor, tolerance: float = 1e-4) -> float:
    """srank(A) = ||A||_F^2 / ||A||_2^2, between 1 and the rank; 1 for a tensor of zeros.

    `tolerance`: of the largest singular value, as in `spectral_norm`.
    """
    largest = spectral_norm(tensor, tolerance)
    return (norm(tensor) / largest) ** 2 if largest > 0.0 else 1.0


def _golub_kahan(matrix: torch.Tensor, tolerance: float) -> float:
    """The largest singular value by bidiagonalisation."""
    import torch

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], generator=generator, dtype=matrix.dtype).to(matrix.device)
    right = [start / start.norm()]
    left: list[torch.Tensor] = []
    diagonal: list[float] = []
    above: list[float] = []
    value = 0.0
    for _ in range(min(ITERATIONS, *matrix.shape)):
        u = _orthogonal(matrix @ right[-1], left)
        diagonal.append(float(u.norm()))
        if diagonal[-1] == 0.0:
            break
        left.append(u / diagonal[-1])
        v = _orthogonal(matrix.T @ left[-1], right)
        above.append(float(v.norm()))
        bidiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        bidiagonal += torch.diag(torch.tensor(above[:-1], dtype=torch.float64), 1)
        leading, singular, _ = torch.linalg.svd(bidiagonal)
        value = float(singular[0])
        if above[-1] * abs(float(leading[-1, 0])) <= tolerance * value:
            break
        right.append(v / above[-1])
    return value


def _orthogonal(vector: torch.Tensor, basis: list[torch.Tensor]) -> torch.Tensor:
    """What is left of a vector without its parts in an orthonormal basis, taken out twice: once leaves rounding."""
    import torch

    if not basis:
        return vector
    stacked = torch.stack(basis)  # [k, n]
    for _ in range(2):
        vector = vector - stacked.T @ (stacked @ vector)
    return vector
