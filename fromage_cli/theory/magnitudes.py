"""What one pass over a tensor's entries gives: norm, largest entry, zeros and what is not finite.

Squares are taken and added up in float64, where those of float32 neither overflow nor vanish. Norms of parts are
joined by `hypot`, so that no square of a part can overflow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
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
        largest = _largest(entries)
        zeros = int(numpy.count_nonzero(numpy.equal(entries, 0, out=self.flags[: entries.size])))
        if not math.isfinite(largest):
            nan, infinite = int(numpy.isnan(entries).sum()), int(numpy.isinf(entries).sum())
            value = math.nan if nan else math.inf
            return Magnitudes(entries.size, value, value, zeros, nan, infinite)
        scale = _scale(entries, largest)
        norm = scale * math.sqrt(_squares(self._widened(entries, scale)))
        return Magnitudes(entries.size, norm, largest, zeros)

    def norm(self, entries: NDArray[Any]) -> float:
        """The Frobenius norm alone; nan where an entry is nan, else infinite where one is."""
        low, high = SAFE
        squares = float(_squares(self._widened(entries)))
        if entries.dtype != "float64" or entries.size * low**2 < squares < high**2:
            return math.sqrt(squares)
        return self.magnitudes(entries).norm

    def rows(self, entries: NDArray[Any], begin: int, length: int) -> NDArray[Any]:
        """The norms of rows, (rows,) float64.

        One or more entries, (elements,), begin at the place `begin`; `length`: entries of a row. Of the first and last
        row only these entries count.
        """
        import numpy

        scale = _scale(entries, _largest(entries)) if entries.dtype == "float64" else 1.0
        wide = self._widened(entries, scale)
        head = min(-begin % length, wide.size)  # the rest of a row, whole rows, and the beginning of one
        whole = (wide.size - head) // length * length
        parts = [
            _squares(wide[start:end].reshape(-1, min(length, end - start)))
            for start, end in pairwise(sorted({0, head, head + whole, wide.size}))
        ]
        norms: NDArray[Any] = scale * numpy.sqrt(numpy.concatenate(parts))
        return norms

    def _widened(self, entries: NDArray[Any], scale: float = 1.0) -> NDArray[Any]:
        """Entries over the scale in float64, valid until the next call."""
        import numpy

        if entries.dtype == numpy.float64:
            return entries if scale == 1.0 else entries / scale
        wide = self.wide[: entries.size]
        numpy.copyto(wide, entries)
        return wide


def _largest(entries: NDArray[Any]) -> float:
    """The largest absolute value; nan where any entry is."""
    return max(float(entries.max()), -float(entries.min()))  # both are nan where any entry is


def _scale(entries: NDArray[Any], largest: float) -> float:
    """What entries are divided by so that their squares neither overflow nor vanish; 1 where none do or can."""
    low, high = SAFE
    needed = entries.dtype == "float64" and math.isfinite(largest) and not low < largest < high
    return largest if needed and largest else 1.0


def _squares(rows: NDArray[Any]) -> NDArray[Any]:
    """The sum of squares of each row, infinite where it overflows: (…, length) float64 to (…).

    It is the sum of inner products of blocks, counted from the row's first entry.
    """
    import numpy

    whole = rows.shape[-1] - rows.shape[-1] % BLOCK
    with numpy.errstate(over="ignore", invalid="ignore"):
        if not whole:
            return _inner_products(rows)
        blocks = rows[..., :whole].reshape(*rows.shape[:-1], -1, BLOCK)
        squares: NDArray[Any] = _inner_products(blocks).sum(-1)
        return squares + _inner_products(rows[..., whole:]) if whole < rows.shape[-1] else squares


def _inner_products(rows: NDArray[Any]) -> NDArray[Any]:
    """The inner product of each row with itself: (…, length) to (…)."""
    import numpy

    products: NDArray[Any] = numpy.matmul(rows[..., None, :], rows[..., :, None])[..., 0, 0]  # […, 1, 1] before
    return products
