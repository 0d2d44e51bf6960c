"""Largest eigenvalues of a symmetric operator that is known by its products alone.

Lanczos iterations with full re-orthogonalisation, in bands of as many start vectors as eigenvalues are wanted. So an
eigenvalue that occurs several times is found several times. Start vectors that are nearly orthogonal to the first
eigenvector settle on the second: one more start vector, orthogonal to what was found, has some products of its own to
find what is larger. All coefficients are accumulated in float64.
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
CHECK = 0.3
"""Products from the further start vector at least, over those until the first had converged."""
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
    vector: Tensor | None = None
    """The unit Ritz vector of the largest, where it was asked for."""


def largest_eigenvalues(
    operator: Operator,
    start: Tensor,
    *,
    count: int = 1,
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
    vector: bool = False,
    draw: Callable[[torch.Generator], Tensor] | None = None,
) -> Spectrum | Interrupted[Spectrum]:
    """Finds the `count` algebraically largest eigenvalues, until each residual is at most tolerance * |value|.

    The start vectors are drawn from `seed`. `start` is added to the one that looks for what they missed: a vector of
    the operator's size, type and device that may lie near the first eigenvector, as the gradient does. Keeps one vector
    per product; `vector`: also give that of the largest. `draw`: makes a vector of normal numbers, where they are not
    to be drawn all at once. Raises NumericalError when a product is not finite.
    """
    count = min(count, start.numel())
    band = Band(start, torch.Generator().manual_seed(seed), draw)
    for _ in range(count):
        band.draw()

    def found_all() -> bool:
        return band.products >= count and band.exhausted(count, tolerance)

    stopped = band.run(operator, min(max_products, start.numel()), found_all, advance)
    found, products, whose = band.largest(count), band.products, band
    exhausted = products >= count and band.exhausted(count, tolerance)
    converged = len(found) == count and all(
        pair.residual <= max(tolerance * abs(pair.value), band.rounding) for pair in found
    )
    inexact, left = exhausted and not converged, min(max_products, start.numel()) - products
    if exhausted and stopped is None and left > 0:
        other, least = band.beside(count), round(CHECK * products)
        other.draw(start)
        stopped = other.run(
            operator, left, lambda: other.products >= least and other.settled(count, tolerance), advance
        )
        products, larger = products + other.products, other.largest(count)
        if any(new.value > old.value + old.residual for new, old in zip(larger, found, strict=True)):
            found, converged, whose = larger, converged and other.settled(count, tolerance), other
    first = whose.ritz_vector(1) if vector and found else None
    spectrum = Spectrum(tuple(found), products, converged, inexact, first)
    return spectrum if stopped is None else Interrupted(spectrum, stopped)


class Band:
    """An orthonormal basis: Ritz vectors of another one, then vectors that were multiplied, then those that wait."""

    def __init__(
        self, like: Tensor, generator: torch.Generator, draw: Callable[[torch.Generator], Tensor] | None = None
    ) -> None:
        self.like, self.epsilon = like, torch.finfo(like.dtype).eps
        self.generator, self.drawn = generator, draw or self._drawn_whole
        self.basis = KrylovBasis(like)
        self.kept: list[Eigenvalue] = []  # of the Ritz vectors
        self.columns: list[list[float]] = []  # of Q^T H Q: one for each product, as long as the basis was then
        self.scale = 0.0  # of the largest product

    def beside(self, count: int) -> "Band":
        """A band that keeps the largest Ritz vectors of this one, for vectors that are orthogonal to them."""
        other = Band(self.like, self.generator, self.drawn)
        other.kept, other.scale = self.largest(count), self.scale
        for rank in range(1, count + 1):
            other._append(self.ritz_vector(rank))
        return other

    def ritz_vector(self, rank: int) -> Tensor:
        """That of the Ritz value of this rank, the largest being the first."""
        return self.combination(self.ritz()[1][:, -rank])

    def combination(self, coefficients: Tensor) -> Tensor:
        """The sum of the first vectors of the basis, each times its coefficient, [n]."""
        return self.basis.subtract(torch.zeros_like(self.like), (-coefficients).tolist())

    def run(
        self, operator: Operator, products: int, done: Callable[[], bool], advance: Callable[[], None]
    ) -> ResourceError | None:
        """Makes products until it is done, or so many are made; what ended it early, if anything did."""
        while self.products < products:
            try:
                self.extend(operator)
            except ResourceError as limit:
                return limit
            advance()
            if done():
                break
        return None

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
        if len(self.kept) + self.products == len(self.basis):  # the space is invariant: others are orthogonal to it
            self.draw()
        product = operator(self.basis[len(self.kept) + self.products])
        size = norm(product)
        if not math.isfinite(size):
            raise NumericalError(
                f"The curvature is not finite: product {self.products + 1} of the Hessian with a vector is {size}.",
                "Try --dtype float64, or --mode eval. A loss with a square root or a norm at zero has no curvature.",
            )
        self.scale = max(self.scale, size)
        column, rest = self._orthogonal(product)
        self.columns.append(column)
        remainder = norm(rest)
        if remainder > 10.0 * self.epsilon * self.scale and len(self.basis) < self.like.numel():
            column.append(self._append(rest))

    def largest(self, count: int) -> list[Eigenvalue]:
        """The largest Ritz values with their residuals."""
        return [
            Eigenvalue(value, max(math.hypot(left + kept, asymmetry), self.rounding))
            for value, left, kept, asymmetry in self._largest(count)
        ]

    def exhausted(self, count: int, tolerance: float) -> bool:
        """Whether further products would not make the largest values better."""
        return all(left <= max(tolerance * abs(value), self.rounding) for value, left, *_ in self._largest(count))

    def settled(self, count: int, tolerance: float) -> bool:
        """Whether that is so, and no other Ritz value can, by its residual, become larger than the last of them."""
        values = self._largest(len(self.kept) + self.products)
        last = values[count - 1][0]
        bound = last + max(tolerance * abs(last), self.rounding)
        return self.exhausted(count, tolerance) and all(value + left <= bound for value, left, *_ in values[count:])

    def _largest(self, count: int) -> list[tuple[float, float, float, float]]:
        """The largest Ritz values, each with what is left of its residual, what kept vectors bring, and asymmetry.

        A kept vector's residual beyond its inner products with the others is bounded by its length.
        """
        if not self.columns and not self.kept:
            return []
        values, vectors, matrix = self.ritz()
        size = len(values)
        square, kept = matrix[:size], len(self.kept)
        outside = torch.tensor([pair.residual for pair in self.kept], dtype=torch.float64).square()
        outside = (outside - square[kept:, :kept].square().sum(0)).clamp_min(0.0).sqrt()
        left = (matrix[size:] @ vectors).norm(dim=0)
        brought = outside @ vectors[:kept].abs()
        asymmetry = ((square - square.T) / 2 @ vectors).norm(dim=0)
        columns = torch.stack([values, left, brought, asymmetry]).flip(1)[:, :count]
        return [(value, a, b, c) for value, a, b, c in columns.T.tolist()]

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """The Ritz values, the smallest first, their vectors in columns, and Q^T H Q with all rows of the basis."""
        kept = len(self.kept)
        size = kept + self.products
        matrix = torch.zeros(len(self.basis), size, dtype=torch.float64)
        for index, pair in enumerate(self.kept):
            matrix[index, index] = pair.value
        for index, column in enumerate(self.columns, kept):
            matrix[: len(column), index] = torch.tensor(column, dtype=torch.float64)
        matrix[kept:size, :kept] = matrix[:kept, kept:].T
        square = matrix[:size]
        values, vectors = torch.linalg.eigh((square + square.T) / 2)
        return values, vectors, matrix

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

    def begin(self, vector: Tensor) -> float:
        """Takes the direction of a vector into the empty basis, and gives its length."""
        return self._append(vector)

    def draw(self, near: Tensor | None = None) -> None:
        """Takes a random direction that is orthogonal to the basis into it; the direction of `near` is added to it.

        A vector of subnormal length has no direction.
        """
        drawn = self.drawn(self.generator)
        if near is not None and (length := norm(near)) > torch.finfo(near.dtype).tiny:
            drawn.div_(norm(drawn)).add_(near, alpha=1.0 / length)
        self._append(self._orthogonal(drawn)[1])

    def _drawn_whole(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.like.numel(), generator=generator, dtype=self.like.dtype).to(self.like.device)
