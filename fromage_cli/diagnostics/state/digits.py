"""Whether float32 numbers hold the digits of a 16-bit dtype alone, as they do after a rounded copy was widened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = 256
"""Entries that are looked at first: those of a float32 tensor that was trained nearly always end the search."""
VARIED = 64
"""Different values from which on a tensor is no constant, and no table of a few numbers."""
LOOKED_AT = 4096
"""Entries of a part among which different values are counted."""


@dataclass(frozen=True)
class Digits:
    """What some entries show; parts of a tensor are joined."""

    bfloat16: bool = True
    """Whether every entry is a number of bfloat16."""
    float16: bool = True
    varied: bool = False

    @classmethod
    def of(cls, entries: NDArray[Any]) -> Digits:
        """Of float32 entries: (elements,)."""
        import numpy

        few = entries[:FIRST]
        bfloat16, float16 = (fits(few) and fits(entries) for fits in (_in_bfloat16, _in_float16))
        varied = (bfloat16 or float16) and numpy.unique(entries[:LOOKED_AT]).size >= VARIED
        return cls(bfloat16, float16, bool(varied))

    def joined(self, other: Digits) -> Digits:
        """With those of another part."""
        return Digits(self.bfloat16 and other.bfloat16, self.float16 and other.float16, self.varied or other.varied)

    @property
    def dtype(self) -> str | None:
        """The dtype that holds them all; None where their digits are more, or their values too few to tell."""
        if not self.varied:
            return None
        return "bfloat16" if self.bfloat16 else "float16" if self.float16 else None


def _in_bfloat16(entries: NDArray[Any]) -> bool:
    import numpy

    return not (entries.view(numpy.uint32) & 0xFFFF).any()


def _in_float16(entries: NDArray[Any]) -> bool:
    import numpy

    with numpy.errstate(over="ignore"):
        return bool((entries.astype(numpy.float16).astype(numpy.float32) == entries).all())


def count_differing(first: NDArray[Any], second: NDArray[Any]) -> int:
    """Entries in which two arrays differ; NaN is like NaN."""
    import numpy

    differ = first != second
    return int(numpy.count_nonzero(differ & ~(numpy.isnan(first) & numpy.isnan(second)))) if differ.any() else 0
