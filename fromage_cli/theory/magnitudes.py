"""What one pass over a tensor's entries tells: norm, largest entry, zeros and what is not finite.

Sums of squares run in float64. Norms of parts are joined by `hypot`, so that no square of a part can overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAFE = {"float32": (1e-15, 1e15), "float64": (1e-140, 1e140)}
"""Largest entries between which a block's squares neither overflow nor vanish."""
BLOCK = 512
"""Entries of one inner product."""


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
            _joined(math.hypot, self.norm, other.norm),
            _joined(max, self.largest, other.largest),
            self.zeros + other.zeros,
            self.nan + other.nan,
            self.infinite + other.infinite,
        )


def _joined(join: Any, first: float, second: float) -> float:
    return math.nan if math.isnan(first) or math.isnan(second) else float(join(first, second))


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
        low, high = SAFE[entries.dtype.name]
        if low < largest < high:
            return Magnitudes(entries.size, math.sqrt(_sum_of_squares(entries)), largest, zeros)
        scale = largest or 1.0
        scaled = numpy.divide(entries, scale, out=self.wide[: entries.size], dtype=numpy.float64)
        return Magnitudes(entries.size, scale * math.sqrt(_sum_of_squares(scaled)), largest, zeros)

    def norm(self, entries: NDArray[Any]) -> float:
        """The Frobenius norm alone; nan where an entry is nan, else infinite where one is."""
        low, high = SAFE[entries.dtype.name]
        squares = _sum_of_squares(entries)
        if entries.size * low**2 < squares < high**2:
            return math.sqrt(squares)
        return self.magnitudes(entries).norm

    def rows(self, entries: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """The norm of each row of (rows, length) entries, (rows,) float64, and the largest absolute value.

        The largest is nan or infinite where an entry is.
        """
        import numpy

        if entries.size == 0:
            return numpy.zeros(len(entries)), 0.0
        low, high = SAFE[entries.dtype.name]
        largest = max(float(entries.max()), -float(entries.min()))
        scale = 1.0 if low < largest < high or not math.isfinite(largest) else largest or 1.0
        wide = entries if scale == 1.0 else numpy.divide(entries, scale, dtype=numpy.float64)
        rows, length = wide.shape
        whole = length - length % BLOCK  # in blocks, as `_sum_of_squares`
        squares: NDArray[Any] = _squares(wide[:, whole:]).astype(numpy.float64)
        if whole:
            squares += _squares(wide[:, :whole].reshape(rows, -1, BLOCK)).sum(1, dtype=numpy.float64)
        return scale * numpy.sqrt(squares), largest


def _sum_of_squares(entries: NDArray[Any]) -> float:
    """Inner products of blocks, too short to lose digits in float32 or for BLAS to share out, summed in float64."""
    import numpy

    whole = entries.size - entries.size % BLOCK
    blocks, rest = entries[:whole].reshape(-1, BLOCK), entries[whole:].astype(numpy.float64)
    return float(_squares(blocks).sum(dtype=numpy.float64)) + float(rest @ rest)


def _squares(rows: NDArray[Any]) -> NDArray[Any]:
    """The inner product of each row with itself, infinite where it overflows: (…, length) to (…)."""
    import numpy

    with numpy.errstate(over="ignore", invalid="ignore"):
        products: NDArray[Any] = numpy.matmul(rows[..., None, :], rows[..., :, None])[..., 0, 0]  # […, 1, 1] before
    return products
