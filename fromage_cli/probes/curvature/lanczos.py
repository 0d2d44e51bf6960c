"""Largest eigenvalues of a symmetric operator that is known by its products alone.

Lanczos iterations with full re-orthogonalisation, in bands of as many start vectors as eigenvalues are wanted, so that
an eigenvalue that occurs several times is found several times. All coefficients are accumulated in float64.
Source: Golub, Van Loan, *Matrix Computations*, 4th ed., chapter 10; band form: Ruhe, Math. Comp. 33 (1979).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.probes.curvature.basis import KrylovBasis
from fromage_cli.theory.accumulation import norm

PASSES = 4
"""Of orthogonalisation at most; two are enough but for a vector that lies in the basis."""
Operator = Callable[[Tensor], Tensor]
"""A symmetric linear map of vectors, [n] -> [n]."""


@dataclass(frozen=True)
class Eigenvalue:
    """A Ritz value: some eigenvalue is no further from it than its residual, that of its rank is not below it."""

    value: float
    residual: float
    """||H v - value v|| for a unit vector v, with what the products' own rounding adds."""


@dataclass(frozen=True)
class Spectrum:
    """The upper end of a spectrum, as far as it was found."""

    eigenvalues: tuple[Eigenvalue, ...]
    """The largest first; empty when no product was made."""
    products: int
    """How many were made."""
    converged: bool
    """Whether every residual is within the tolerance."""
    inexact: bool = False
    """Whether it is not because the products are not those of one symmetric matrix: their own rounding is too large."""


def largest_eigenvalues(
    operator: Operator,
    start: Tensor,
    *,
    count: int = 1,
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Spectrum | Interrupted[Spectrum]:
    """Finds the `count` algebraically largest eigenvalues, until each residual is at most tolerance * |value|.

    `start`: any vector of the operator's size, type and device; the start vectors themselves are drawn from `seed`.
    Keeps one vector per product. Raises NumericalError when a product is not finite.
    """
    count = min(count, start.numel())
    band = _Band(start, count, seed)
    stopped = None
    while band.products < min(max_products, start.numel()):
        try:
            band.extend(operator)
        except ResourceError as limit:
            stopped = limit
            break
        advance()
        if band.products >= count and band.exhausted(count, tolerance):
            break
    found = band.largest(count)
    within = all(pair.residual <= max(tolerance * abs(pair.value), band.rounding) for pair in found)
    spectrum = Spectrum(
        eigenvalues=tuple(found),
        products=band.products,
        converged=len(found) == count and within,
        inexact=not within and band.products >= count and band.exhausted(count, tolerance),
    )
    return spectrum if stopped is None else Interrupted(spectrum, stopped)


class _Band:
    """An orthonormal basis of which the first vectors have been multiplied and the others wait for it."""

    def __init__(self, like: Tensor, width: int, seed: int) -> None:
        self.like, self.epsilon = like, torch.finfo(like.dtype).eps
        self.generator = torch.Generator().manual_seed(seed)
        self.basis = KrylovBasis(like)
        self.columns: list[list[float]] = []  # of Q^T H Q: one for each product, as long as the basis was then
        self.scale = 0.0  # of the largest product
        for _ in range(width):
            self._draw()

    @property
    def products(self) -> int:
        """How many vectors of the basis have been multiplied."""
        return len(self.columns)

    @property
    def rounding(self) -> float:
        """The residual below which everything may be rounding."""
        return 16.0 * self.epsilon * self.scale

    def extend(self, operator: Operator) -> None:
        """Multiplies the next vector and takes what is new in the product into the basis."""
        if self.products == len(self.basis):  # the space is invariant: other eigenvectors are orthogonal to it
            self._draw()
        product = operator(self.basis[self.products])
        size = norm(product)
        if not math.isfinite(size):
            raise NumericalError(
                f"The curvature is not finite: product {self.products + 1} of the Hessian with a vector is {size}.",
                "Try --dtype float64, or --mode eval; a loss with a square root or a norm at zero has no curvature.",
            )
        self.scale = max(self.scale, size)
        column, rest = self._orthogonal(product)
        self.columns.append(column)
        remainder = norm(rest)
        if remainder > 10.0 * self.epsilon * self.scale and len(self.basis) < self.like.numel():
            column.append(self._append(rest))

    def largest(self, count: int) -> list[Eigenvalue]:
        """The largest Ritz values with their residuals."""
        return [Eigenvalue(value, max(math.hypot(*errors), self.rounding)) for value, *errors in self._largest(count)]

    def exhausted(self, count: int, tolerance: float) -> bool:
        """Whether further products would not make the largest values better."""
        return all(left <= max(tolerance * abs(value), self.rounding) for value, left, _ in self._largest(count))

    def _largest(self, count: int) -> list[tuple[float, float, float]]:
        """The largest Ritz values, each with the residual that further products reduce and the products' asymmetry."""
        if not self.columns:
            return []
        matrix = torch.zeros(len(self.basis), self.products, dtype=torch.float64)  # Q^T H Q, all rows of the basis
        for index, column in enumerate(self.columns):
            matrix[: len(column), index] = torch.tensor(column, dtype=torch.float64)
        square = matrix[: self.products]
        values, vectors = torch.linalg.eigh((square + square.T) / 2)
        defect = (square - square.T) / 2
        return [
            (
                float(values[i]),
                float((matrix[self.products :] @ vectors[:, i]).norm()),
                float((defect @ vectors[:, i]).norm()),
            )
            for i in range(len(values) - 1, max(len(values) - 1 - count, -1), -1)
        ]

    def _orthogonal(self, vector: Tensor) -> tuple[list[float], Tensor]:
        """Splits a vector into coefficients in the basis and a rest; the last pass leaves the length as it was."""
        coefficients, rest, length = [0.0] * len(self.basis), vector.clone(), math.inf
        for _ in range(PASSES):
            parts = self.basis.coefficients(rest)
            self.basis.subtract(rest, parts)
            coefficients = [whole + part for whole, part in zip(coefficients, parts, strict=True)]
            before, length = length, norm(rest)
            if length > 0.7 * before:
                break
        return coefficients, rest

    def _append(self, rest: Tensor) -> float:
        """Takes a direction that is orthogonal to the others into the basis, and gives its length."""
        length = norm(rest)
        direction = rest.div(length)
        self.basis.append(direction.div_(norm(direction)))
        return length

    def _draw(self) -> None:
        """Takes a random direction that is orthogonal to the basis into it."""
        drawn = torch.randn(self.like.numel(), generator=self.generator, dtype=self.like.dtype).to(self.like.device)
        self._append(self._orthogonal(drawn)[1])
