"""What is summed over the entries of a tensor and its moments, part by part, in numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import add, attrgetter
from typing import TYPE_CHECKING, Any

from fromage_cli.theory.magnitudes import Workspace
from fromage_cli.theory.moment_bounds import moment_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Largest relative error of a rounded number, by its dtype."""
SMALLEST = {"float64": 2.3e-308, "float32": 1.2e-38, "bfloat16": 1.2e-38, "float16": 6.2e-5}
"""Below it a number has fewer digits, or becomes 0."""
NEAR = 10.0
"""Times eps: where eps still takes a tenth of the step."""


@dataclass(frozen=True)
class Moments:
    """How one tensor's moments were made."""

    beta1: float
    beta2: float
    eps: float
    steps: float
    dtype: str
    """As they are stored."""
    corrected: bool = True
    """Whether they are corrected for their start at 0."""
    between: tuple[float, float] | None = None
    """The least and the largest beta1 of the run, where it changed."""
    first_dtype: str | None = None
    """As m is stored, where that is not as v is."""
    constant: bool = True
    """Whether beta2 is known to have been the same all along; else no bound holds."""

    @property
    def corrections(self) -> tuple[float, float]:
        """What m and sqrt(v) are divided by, for they began at 0."""
        return 1.0 - self.beta1**self.steps, math.sqrt(1.0 - self.beta2**self.steps)

    @property
    def bound(self) -> tuple[float, float, float]:
        """a, b, c of |m| <= a sqrt(b v + c), which holds of rounded moments too.

        Every update of v rounds it once, of which 1 / (1 - beta2) are remembered; likewise m. Gradients whose square
        is too small for the dtype count in m alone.
        """
        error, tiny = ROUNDOFF[self.dtype], SMALLEST[self.dtype]
        least, most = self.between or (self.beta1, self.beta1)
        of_first = ROUNDOFF.get(self.first_dtype or self.dtype, error)
        slack = 1.0 + 4.0 * of_first / max(1.0 - most, of_first)
        if not self.constant:
            return math.inf, 1.0, tiny
        return (
            slack * moment_bound(most, self.beta2, self.steps, least),
            1.0 + 4.0 * error / max(1.0 - self.beta2, error),
            4.0 * tiny / max(1.0 - self.beta2, error),
        )


@dataclass(frozen=True)
class Sums:
    """Of some entries; those of others can be added."""

    entries: int = 0
    squares: float = 0.0
    """Of the weights."""
    updates: int = 0
    """Entries of u, where moments made one."""
    update_squares: float = 0.0
    """Of u."""
    products: float = 0.0
    """Of w and u."""
    beyond: int = 0
    """Entries whose m is beyond its bound."""
    negative: int = 0
    not_finite: int = 0
    first_moments: int = 0
    """Entries whose m is not 0."""
    second_moments: int = 0
    """Entries whose v is not 0."""
    below: int = 0
    """Entries whose sqrt(v^) is below eps."""
    near: int = 0
    """The same below NEAR eps."""
    squares_below: float = 0.0
    """Of u in the entries below eps."""
    factors: float = 0.0
    """Of sqrt(v^) / (sqrt(v^) + eps)."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(*map(add, _numbers(self), _numbers(other)))


_numbers = attrgetter(*(one.name for one in fields(Sums)))


class Summation:
    """The memory of one thread that sums up to `size` entries at a time."""

    def __init__(self, size: int) -> None:
        self.workspace = Workspace(size)

    def weights(self, weight: NDArray[Any]) -> Sums:
        """Of weights without moments."""
        return Sums(entries=weight.size, squares=self.workspace.norm(weight) ** 2)

    def adam(self, arrays: Mapping[str, NDArray[Any]], moments: Moments) -> Sums:
        """Of weights and Adam's moments: `weight`, `exp_avg` and `exp_avg_sq`, and `max_exp_avg_sq` where it is used.

        An entry whose moments are not finite, or whose v is negative, counts as such and in no other sum.
        """
        import numpy

        first, second = arrays["exp_avg"], arrays["exp_avg_sq"]
        divided = arrays.get("max_exp_avg_sq", second)
        weight = arrays["weight"]
        found = self.weights(weight)
        finite = numpy.isfinite(first) & numpy.isfinite(second)
        lowered = 0
        if divided is not second:
            finite &= numpy.isfinite(divided)
            lowered = int(numpy.count_nonzero(divided < (1.0 - 4.0 * ROUNDOFF[moments.dtype]) * second))
        negative = int(numpy.count_nonzero(second < 0.0))
        not_finite = finite.size - int(numpy.count_nonzero(finite))
        if negative or not_finite:
            sound = finite & (second >= 0.0)
            first, second, divided, weight = first[sound], second[sound], divided[sound], weight[sound]
        by_first, by_second = moments.corrections if moments.corrected else (1.0, 1.0)
        slope, times, more = moments.bound
        limit = times * second
        limit += more
        numpy.sqrt(limit, out=limit)
        limit *= slope if math.isfinite(slope) else 3e38
        root = numpy.sqrt(divided)
        root /= by_second
        denominator = root + moments.eps
        with numpy.errstate(divide="ignore", invalid="ignore"):
            update = first / denominator
        update[denominator <= 0.0] = 0.0
        update /= by_first
        below = root < moments.eps
        count = int(numpy.count_nonzero(below))
        return replace(
            found,
            updates=update.size,
            update_squares=self.workspace.norm(update) ** 2,
            products=float(numpy.einsum("i,i", weight, update, dtype=numpy.float64)),
            beyond=int(numpy.count_nonzero(numpy.abs(first) > limit)) + lowered,
            negative=negative,
            not_finite=not_finite,
            first_moments=int(numpy.count_nonzero(first != 0.0)),  # faster than of floats
            second_moments=int(numpy.count_nonzero(second != 0.0)),
            below=count,
            near=int(numpy.count_nonzero(root < NEAR * moments.eps)),
            squares_below=self.workspace.norm(update[below]) ** 2 if count else 0.0,
            factors=float((root / denominator).sum(dtype=numpy.float64)) if moments.eps else float(root.size),
        )

    def memory(self, arrays: Mapping[str, NDArray[Any]], update: NDArray[Any] | None) -> Sums:
        """Of weights, an update that is made already, and other memory than Adam's; None: no update is made."""
        import numpy

        weight = arrays["weight"]
        kept = [array for name, array in arrays.items() if name != "weight"]
        found = replace(self.weights(weight), not_finite=sum(one.size - int(numpy.isfinite(one).sum()) for one in kept))
        if update is None:
            return found
        return replace(found, updates=update.size, update_squares=self.workspace.norm(update) ** 2)


@dataclass(frozen=True)
class Seen:
    """The rows of a tensor that had a gradient, as far as its parts were read in their order."""

    count: int = 0
    last: int = -1
    """The last of them; -1 without any."""
    first: int = -1

    @classmethod
    def of(cls, second: NDArray[Any], begin: int, length: int) -> Seen:
        """Those of a part of v that begins at an entry of the tensor; `length`: entries of a row."""
        import numpy

        present = second != 0.0
        count = int(numpy.count_nonzero(present))
        if not count:
            return cls()
        if count == second.size:
            first, last = begin // length, (begin + second.size - 1) // length
            return cls(last - first + 1, last, first)
        rows = (numpy.flatnonzero(present) + begin) // length
        return cls(1 + int(numpy.count_nonzero(numpy.diff(rows))), int(rows[-1]), int(rows[0]))

    def joined(self, other: Seen) -> Seen:
        """With those of the next part, whose first row may be the last of this one."""
        if not other.count:
            return self
        if not self.count:
            return other
        return Seen(self.count + other.count - (self.last == other.first), other.last, self.first)
