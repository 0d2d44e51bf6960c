"""How far apart tensors of the same name in two checkpoints are: distances and angles in float64, chunk by chunk."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import array_chunks
from fromage_cli.theory.relative_trust import angle_between

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pair:
    """Two tensors of one shape, u and v; all numbers are nan where an entry is not finite."""

    first: float
    """‖u‖."""
    second: float
    """‖v‖."""
    difference: float
    """‖v − u‖."""
    angle: float | None
    """Between u and v, radians; None where one of them is zero or not finite."""


def measure_pair(first: Checkpoint, second: Checkpoint, name: str) -> Pair:
    """Measure distance and angle of the tensor of that name, which both checkpoints have in one shape, as real numbers.

    Reads it twice. Raises InputError as reading does.
    The angle is 2 atan2(‖û − v̂‖, ‖û + v̂‖), exact where 1 − cos has no digits left.
    """

    def over_chunks(
        measure: Callable[[NDArray[Any], NDArray[Any]], tuple[float, ...]], join: Callable[[float, float], float]
    ) -> tuple[float, ...]:
        chunks = zip(array_chunks(first, name), array_chunks(second, name), strict=True)
        columns = zip(*(measure(u, v) for u, v in chunks), strict=True)
        return tuple(reduce(join, numbers) for numbers in columns) or (0.0, 0.0, 0.0)

    unit_u = unit_v = 1.0
    if "float64" in (first.entries[name].dtype, second.entries[name].dtype):  # where squares may leave the range
        largest_u, largest_v, *_ = over_chunks(lambda u, v: (_largest(u), _largest(v)), max)
        unit_u, unit_v = largest_u or 1.0, largest_v or 1.0
    scale = max(unit_u, unit_v)
    sums = over_chunks(
        lambda u, v: (_square(u / unit_u), _square(v / unit_v), _square(v / scale - u / scale)), operator.add
    )
    if not all(math.isfinite(value) for value in sums):
        return Pair(math.nan, math.nan, math.nan, None)
    norm_u, norm_v = unit_u * math.sqrt(sums[0]), unit_v * math.sqrt(sums[1])
    angle = None
    if norm_u and norm_v:
        chord, cochord = over_chunks(
            lambda u, v: (_square(u / norm_u - v / norm_v), _square(u / norm_u + v / norm_v)), operator.add
        )
        angle = angle_between(math.sqrt(chord), math.sqrt(cochord))
    return Pair(norm_u, norm_v, scale * math.sqrt(sums[2]), angle)


def _largest(entries: NDArray[Any]) -> float:
    """Return the largest absolute value of finite entries; 1 where one is not, which the sums then show."""
    value = max(float(entries.max()), -float(entries.min()))
    return value if math.isfinite(value) else 1.0


def _square(entries: NDArray[Any]) -> float:
    return float(entries @ entries)
