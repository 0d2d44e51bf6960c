"""What one pass over a tensor's entries gives: norm, largest entry, zeros and what is not finite.

Squares are taken and added up in float64, where those of float32 neither overflow nor vanish. Norms of parts are
joined by `hypot`, so that no square of a part can overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAFE = (1e-140, 1e140)
"""Largest entries between which squares in float64 neither overflow nor vanish."""
BLOCK = 8192
"""Entries of one inner product: they stay in the processor's cache, and are too few for BLAS to share out."""


@dataclass(frozen=True)
class Magnitudes:
    """What is known of some entries by their absolute values alone."""

    elements: int = 0
    norm: float = 0.0
    """Frobenius norm; nan where an entry is nan, else inf where one is infinite."""
    largest: float = 0.0
    """Largest absolute value; nan and inf likewise."""
    zeros: int = 0
    nan: int = 0
    """Entries that are no number."""
    infinite: int = 0

    @property
    def nonfinite(self) -> int:
        """Entries that are nan or infinite."""
        return self.nan + self.infinite

    @property
    def root_mean_square(self) -> float:
        """Norm / sqrt(elements); zero where there are no entries."""
        return self.norm / math.sqrt(self.elements) if self.elements else 0.0

    def joined(self, other: Magnitudes) -> Magnitudes:
        """The magnitudes of these entries and the other ones together."""
        return Magnitudes(
            self.elements + other.elements,
            joined_norm(self.norm, other.norm),
            math.nan if math.isnan(self.largest + other.largest) else max(self.largest, other.largest),
            self.zeros + other.zeros,
            self.nan + other.nan,
            self.infinite + other.infinite,
        )


def joined_norm(first: float, second: float) -> float:
    """The norm of two parts together; nan where one is, where `math.hypot` lets infinity win."""
    return math.nan if math.isnan(first) or math.isnan(second) else math.hypot(first, second)


class Workspace:
    """Memory for the magnitudes of up to `size` entries at a time, used again and again."""

    def __init__(self, size: int) -> None:
        import numpy

        self.wide: NDArray[Any] = numpy.empty(size, numpy.float64)
        self.flags: NDArray[Any] = numpy.empty(size, numpy.bool_)

    def magnitudes(self, entries: NDArray[Any]) -> Magnitudes:
        """The magnitudes of real entries, (elements,) float32 or float64."""
        import numpy

        if entries.size == 0:
            return Magnitudes()
        largest = max(float(entries.max()), -float(entries.min()))  # both are nan where any entry is
        zeros = int(numpy.count_nonzero(numpy.equal(entries, 0, out=self.flags[: entries.size])))
        if not math.isfinite(largest):
            nan, infinite = int(numpy.isnan(entries).sum()), int(numpy.isinf(entries).sum())
            value = math.nan if nan else math.inf
            return Magnitudes(entries.size, value, value, zeros, nan, infinite)
        return Magnitudes(entries.size, self._scaled_norm(entries, largest), largest, zeros)

    def norm(self, entries: NDArray[Any]) -> float:
        """The Frobenius norm alone; nan where an entry is nan, else infinite where one is."""
        low, high = SAFE
        squares = self._sum_of_squares(entries)
        if entries.dtype != "float64" or entries.size * low**2 < squares < high**2:
            return math.sqrt(squares)
        return self.magnitudes(entries).norm

    def rows(self, entries: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """The norm of each row of (rows, length) entries, (rows,) float64, and the largest absolute value.

        The largest is nan or infinite where an entry is.
        """
        import numpy

        if entries.size == 0:
            return numpy.zeros(len(entries)), 0.0
        largest = max(float(entries.max()), -float(entries.min()))
        scale = _scale(entries, largest)
        wide = self.wide[: entries.size].reshape(entries.shape)
        numpy.copyto(wide, entries if scale == 1.0 else entries / scale)
        rows, length = entries.shape
        whole = length - length % BLOCK
        squares: NDArray[Any] = _squares(wide[:, whole:])
        if whole:
            squares += _squares(wide[:, :whole].reshape(rows, -1, BLOCK)).sum(1)
        return scale * numpy.sqrt(squares), largest

    def _scaled_norm(self, entries: NDArray[Any], largest: float) -> float:
        """The norm of finite entries."""
        import numpy

        scale = _scale(entries, largest)
        if scale == 1.0:
            return math.sqrt(self._sum_of_squares(entries))
        return scale * math.sqrt(self._sum_of_squares(numpy.divide(entries, scale)))

    def _sum_of_squares(self, entries: NDArray[Any]) -> float:
        """Inner products of blocks, counted from the first entry, in float64; infinite where they overflow."""
        import numpy

        total, narrow = 0.0, entries.dtype != numpy.float64
        with numpy.errstate(over="ignore", invalid="ignore"):
            for begin in range(0, entries.size, BLOCK):
                part = entries[begin : begin + BLOCK]
                if narrow:
                    numpy.copyto(self.wide[: part.size], part)
                    part = self.wide[: part.size]
                total += float(part.dot(part))
        return total


def _scale(entries: NDArray[Any], largest: float) -> float:
    """What entries are divided by so that their squares neither overflow nor vanish; 1 where none do or can."""
    low, high = SAFE
    needed = entries.dtype == "float64" and math.isfinite(largest) and not low < largest < high
    return largest if needed and largest else 1.0


def _squares(rows: NDArray[Any]) -> NDArray[Any]:
    """The inner product of each row with itself, infinite where it overflows: (…, length) to (…)."""
    import numpy

    with numpy.errstate(over="ignore", invalid="ignore"):
        products: NDArray[Any] = numpy.matmul(rows[..., None, :], rows[..., :, None])[..., 0, 0]  # […, 1, 1] before
    return products
