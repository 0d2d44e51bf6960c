"""Functions of a symmetric operator, applied to one vector: f(A) b = |b| Q f(T) e_1 on the Lanczos basis Q of b.

f(s) = 1 / (s + shift) gives what conjugate gradients give after as many products. One basis serves every
shift. Full re-orthogonalisation keeps it so in floating point; coefficients are in float64.
Source: Higham, *Functions of Matrices*, 2008, chapter 13.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.errors import ResourceError
from fromage_cli.probes.curvature.lanczos import Band, Operator

Function = Callable[[Tensor], Tensor]
"""Of eigenvalues, [k] -> [k] in float64."""


@dataclass(frozen=True)
class Applied:
    """A function of an operator times a vector, as far as a basis tells it."""

    coefficients: Tensor
    """In the basis, [k]."""
    residual: float
    """Relative: what a shifted system leaves, or for another function, what the last product changed."""


class KrylovSpace:
    """The vectors b, A b, A A b, ... made orthonormal, and functions of A on them. Keeps one vector per product."""

    def __init__(self, start: Tensor) -> None:
        self.band = Band(start, torch.Generator())
        self.length = self.band.begin(start)

    @property
    def products(self) -> int:
        """How many were made."""
        return self.band.products

    @property
    def complete(self) -> bool:
        """Whether the next product leads nowhere new, so that everything is exact but for rounding."""
        return self.products == len(self.band.basis)

    def grow(
        self, operator: Operator, products: int, done: Callable[[], bool], advance: Callable[[], None]
    ) -> ResourceError | None:
        """Makes products until it is done or complete, or there are so many; what ended it early, if anything did.

        Raises NumericalError where a product is not finite.
        """
        return self.band.run(operator, products, lambda: self.complete or done(), advance)

    def eigenvalues(self) -> list[float]:
        """The Ritz values, the smallest first."""
        found: list[float] = self.band.ritz()[0].tolist()
        return found

    def solve(self, shift: float) -> Applied:
        """(A + shift)^-1 b, with the relative norm of b - (A + shift) x."""
        values, vectors, matrix = self.band.ritz()
        found = self.length * (vectors @ (vectors[0] / (values + shift)))
        left = matrix @ found
        left[: len(found)] += shift * found
        left[0] -= self.length
        return Applied(found, float(left.norm()) / self.length)

    def apply(self, function: Function) -> Applied:
        """f(A) b, with the relative change by the last product."""
        values, vectors, matrix = self.band.ritz()
        found = self.length * (vectors @ (function(values) * vectors[0]))
        if self.complete or len(values) < 2:
            return Applied(found, 0.0 if self.complete else math.inf)
        before = matrix[: len(values) - 1, : len(values) - 1]
        values, vectors = torch.linalg.eigh((before + before.T) / 2)
        change = found.clone()
        change[:-1] -= self.length * (vectors @ (function(values) * vectors[0]))
        return Applied(found, float(change.norm() / found.norm()))

    def vector(self, applied: Applied) -> Tensor:
        """What was found, [n]."""
        return self.band.combination(applied.coefficients)
