"""How far apart tensors of the same name in two checkpoints are: distances and angles in float64, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import array_chunks
from fromage_cli.theory.network_distance import angle_between

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
    """Distance and angle of the tensor of that name, which both checkpoints have in one shape, as real numbers.

    Reads it twice. Raises InputError as reading does.
    The angle is 2 atan2(‖û − v̂‖, ‖û + v̂‖), exact where 1 − cos has no digits left.
    """
    units = _units(first, second, name)
    scale = max(units)
    sums = _over_chunks(
        first,
        second,
        name,
        lambda u, v: (_square(u / units[0]), _square(v / units[1]), _square(v / scale - u / scale)),
        lambda a, b: a + b,
    )
    if not all(math.isfinite(value) for value in sums):
        return Pair(math.nan, math.nan, math.nan, None)
    norms = units[0] * math.sqrt(sums[0]), units[1] * math.sqrt(sums[1])
    return Pair(*norms, scale * math.sqrt(sums[2]), _angle(first, second, name, *norms) if all(norms) else None)


def _units(first: Checkpoint, second: Checkpoint, name: str) -> tuple[float, float]:
    """What entries are divided by before they are squared, which may leave the range of float64 only in float64."""
    if "float64" not in (first.entries[name].dtype, second.entries[name].dtype):
        return 1.0, 1.0
    u, v, *_ = _over_chunks(first, second, name, lambda u, v: (_largest(u), _largest(v)), max)
    return u or 1.0, v or 1.0


def _angle(first: Checkpoint, second: Checkpoint, name: str, norm_u: float, norm_v: float) -> float:
    chord, cochord = _over_chunks(
        first,
        second,
        name,
        lambda u, v: (_square(u / norm_u - v / norm_v), _square(u / norm_u + v / norm_v)),
        lambda a, b: a + b,
    )
    return angle_between(math.sqrt(chord), math.sqrt(cochord))


def _over_chunks(
    first: Checkpoint,
    second: Checkpoint,
    name: str,
    measure: Callable[[NDArray[Any], NDArray[Any]], tuple[float, ...]],
    join: Callable[[float, float], float],
) -> tuple[float, ...]:
    """Numbers of each pair of chunks, joined one by one."""
    joined: tuple[float, ...] = ()
    for u, v in zip(array_chunks(first, name), array_chunks(second, name), strict=True):
        numbers = measure(u, v)
        joined = tuple(map(join, joined, numbers)) if joined else numbers
    return joined or (0.0, 0.0, 0.0)


def _largest(entries: NDArray[Any]) -> float:
    """The largest absolute value of finite entries; 1 where one is not, which the sums then show."""
    value = max(float(entries.max()), -float(entries.min()))
    return value if math.isfinite(value) else 1.0


def _square(entries: NDArray[Any]) -> float:
    return float(entries @ entries)
