"""Extreme singular values of matrices without torch: spectral norm and condition number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE = 1024
"""Matrices whose smaller side is at most this are decomposed; of larger ones only the spectral norm is found."""
TOLERANCE = 1e-4
"""Residual over eigenvalue at which the iteration ends."""
ITERATIONS = 80
"""Products with A^T A at most."""

SAFE = (1e-12, 1e12)
"""Largest entries between which nothing has to be scaled."""


def decomposition_work(shape: Sequence[int]) -> float:
    """The multiplications, about, that `extremes` takes for a tensor of two or more dimensions, as a matrix."""
    rows, columns = shape[0], math.prod(shape[1:])
    short = min(rows, columns)
    return float(rows * columns * (short if short <= DENSE else 2 * ITERATIONS))


def condition_number(values: NDArray[Any], longer_side: int) -> float:
    """sigma_max / sigma_min of singular values in falling order; inf where the smallest is rounding."""
    import numpy

    largest, smallest = float(values[0]), float(values[-1])
    negligible = largest * longer_side * float(numpy.finfo(numpy.float64).eps)
    return largest / smallest if smallest > negligible else math.inf


def extremes(matrix: NDArray[Any]) -> tuple[float, float | None]:
    """Spectral norm and condition number of a finite matrix; the latter None where it is too large to decompose."""
    import numpy

    if not matrix.size:
        return 0.0, None
    scale = float(max(matrix.max(), -matrix.min())) or 1.0
    if not SAFE[0] < scale < SAFE[1]:  # squares of tiny and of huge entries leave the range of float32
        norm, condition = extremes(matrix / scale)
        return scale * norm, condition
    if min(matrix.shape) > DENSE:
        return leading_singular_value(matrix), None
    values = numpy.linalg.svd(matrix, compute_uv=False)
    return float(values[0]), condition_number(values, max(matrix.shape))


def leading_singular_value(matrix: NDArray[Any]) -> float:
    """The largest singular value, from below, by Lanczos on A^T A with full re-orthogonalisation.

    Stopped when the residual of the leading Ritz pair is below TOLERANCE times its value. Source: Golub, Van Loan,
    *Matrix Computations*, 4th ed., section 10.1.
    """
    import numpy

    wide = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    start = numpy.random.default_rng(0).standard_normal((wide.shape[1],), dtype=wide.dtype)
    basis: list[NDArray[Any]] = [start / numpy.linalg.norm(start)]
    diagonal: list[float] = []
    below: list[float] = []
    value = 0.0
    image: NDArray[Any]
    for _ in range(min(ITERATIONS, wide.shape[1])):
        image = wide.T @ (wide @ basis[-1])
        diagonal.append(float(image @ basis[-1]))
        stacked = numpy.stack(basis)  # [k, n]
        for _ in range(2):
            image = image - stacked.T @ (stacked @ image)
        below.append(float(numpy.linalg.norm(image)))
        tridiagonal = numpy.diag(diagonal) + numpy.diag(below[:-1], 1) + numpy.diag(below[:-1], -1)
        values, vectors = numpy.linalg.eigh(tridiagonal)
        value = float(values[-1])
        if below[-1] * abs(float(vectors[-1, -1])) <= TOLERANCE * abs(value):
            break
        basis.append((image / below[-1]).astype(wide.dtype))
    return math.sqrt(max(value, 0.0))
