"""What may and what does change between two checkpoints of a run, entry by entry, in numpy.

    v_B >= beta2^d v_A,    |m_B - beta1^d m_A| <= C_d sqrt(v_B - beta2^d v_A),    |W_B - W_A f| <= sum of eta C

Whatever the gradients of the d updates between were. C is that of `theory.moment_bounds`, f what decay leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from fromage_cli.diagnostics.state.sums import ROUNDOFF, SMALLEST
from fromage_cli.theory.moment_bounds import moment_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 2**15
"""Entries that are worked on at once, so that all arrays lie in the processor's cache."""
FAR = 10.0
"""Times as far as updates can move a weight: no doubt about the rates explains that."""
LEAST_REMEMBERED = 1e-6
"""The share of v below which what is left of it tells nothing."""


@dataclass(frozen=True)
class MomentReach:
    """What so many updates can make of Adam's moments."""

    beta1: float
    beta2: float
    updates: float
    dtype: str
    """As v is stored."""
    first_dtype: str
    """As m is stored."""
    between: tuple[float, float] | None = None
    """The least and the largest beta1 on the way, where it changed."""

    @property
    def remembered(self) -> float:
        """The share of v that is certainly left, whatever was rounded: four roundings an update are allowed for."""
        kept: float = (self.beta2 * (1.0 - 4.0 * ROUNDOFF[self.dtype])) ** self.updates
        return kept

    def broken(self, before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
        """Entries whose v is too small for what it was before, and those whose m moved too far."""
        import numpy

        error, least = ROUNDOFF[self.dtype], SMALLEST[self.dtype]
        rounded, corrected = min(self.updates, 1.0 / max(1.0 - self.beta2, error)), 4.0 * error
        tiny = 4.0 * least * rounded
        lower = self.remembered * before["exp_avg_sq"]
        fallen = numpy.count_nonzero(after["exp_avg_sq"] < lower - tiny)
        if "max_exp_avg_sq" in before and "max_exp_avg_sq" in after:
            fallen += numpy.count_nonzero(after["max_exp_avg_sq"] < (1.0 - corrected) * before["max_exp_avg_sq"])
        added = (1.0 + corrected * rounded) * after["exp_avg_sq"]
        added -= lower
        added += tiny
        numpy.maximum(added, 0.0, out=added)
        lowest, most = self.between or (self.beta1, self.beta1)
        of_first = 4.0 * ROUNDOFF[self.first_dtype]
        slack = of_first / max(1.0 - most, of_first)  # roundings of m that are remembered
        limit = (1.0 + slack) * moment_bound(most, self.beta2, self.updates, lowest) * numpy.sqrt(added, out=added)
        if self.between is None:
            moved = numpy.abs(after["exp_avg"] - self.beta1**self.updates * before["exp_avg"])
        else:
            moved = numpy.abs(after["exp_avg"]) - most**self.updates * numpy.abs(before["exp_avg"])
        limit += slack * numpy.abs(after["exp_avg"])
        return int(fallen), int(numpy.count_nonzero(moved > limit))


@dataclass(frozen=True)
class WeightReach:
    """How far the updates between can move a weight."""

    distance: float
    """The sum of the rates times the most that an entry of u can be."""
    kept: float
    """The least share of the weight that decay may leave; the most is 1."""
    rounding: float
    """Share of a weight that roundings may change."""

    def broken(self, before: NDArray[Any], after: NDArray[Any]) -> tuple[int, int]:
        """Entries that moved further, and those that moved FAR times as far."""
        import numpy

        middle, half = 0.5 * (1.0 + self.kept), 0.5 * (1.0 - self.kept)
        room = (half + self.rounding) * numpy.abs(before)
        room += self.rounding * numpy.abs(after)
        room += self.distance
        moved = numpy.abs(after - middle * before)
        beyond = int(numpy.count_nonzero(moved > room))
        return beyond, int(numpy.count_nonzero(moved > FAR * room)) if beyond else 0


@dataclass(frozen=True)
class Changes:
    """Counts over the entries of one tensor, from one checkpoint to the next; those of others can be added."""

    entries: int = 0
    """Of the weight, where it is known."""
    moved: int = 0
    """Entries of the weight that are not the same."""
    remade: int = 0
    """Entries of its slots that are not the same."""
    filled: int = 0
    """Entries of its slots that are not 0."""
    fallen: int = 0
    """Entries of v that are smaller than what is left of the one before."""
    strayed: int = 0
    """Entries of m that moved further than v allows."""
    beyond: int = 0
    """Entries of the weight that moved further than the updates can."""
    far: int = 0
    """Those of them that moved FAR times as far."""
    filled_before: int = 0
    """Entries of its slots that were not 0 before."""

    def __add__(self, other: Changes) -> Changes:
        return replace(self, **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(frozen=True)
class Reach:
    """What the updates between two checkpoints can make of one tensor; None where no bound is known."""

    moments: MomentReach | None
    weight: WeightReach | None

    def changes(self, before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> Changes:
        """What does change: `before` and `after` hold the slots, and the weight if it is known, each (entries,)."""
        import numpy

        found = Changes()
        common = [name for name in after if name in before]
        for start in range(0, after[common[0]].size if common else 0, BLOCK):
            block = slice(start, start + BLOCK)
            old, new = ({name: arrays[name][block] for name in common} for arrays in (before, after))
            differ = {name: int(numpy.count_nonzero(old[name] != new[name])) for name in common}
            with numpy.errstate(invalid="ignore", over="ignore"):  # damaged moments, which the bound on one file counts
                fallen, strayed = (0, 0) if self.moments is None else self.moments.broken(old, new)
                beyond, far = (0, 0) if self.weight is None else self.weight.broken(old["weight"], new["weight"])
            size = new["weight"].size if "weight" in new else 0
            moved = differ.pop("weight", 0)
            filled, filled_before = (sum(int(numpy.count_nonzero(one[name])) for name in differ) for one in (new, old))
            remade = sum(differ.values())
            found += Changes(size, moved, remade, filled, fallen, strayed, beyond, far, filled_before)
        return found
