"""How far apart tensors of the same name in two checkpoints are: distances and angles in float64, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK, array_chunks, stored_chunks
from fromage_cli.checkpoints.storage.files import READ_BLOCK
from fromage_cli.theory.magnitudes import Workspace, joined_norm
from fromage_cli.theory.relative_trust import angle_between

if TYPE_CHECKING:
    from numpy.typing import NDArray


def same_bytes(first: Checkpoint, second: Checkpoint, name: str) -> bool:
    """Return whether the tensor of that name has the same bytes in both checkpoints. Reading ends at a difference.

    Raises InputError as reading does.
    """
    entries = first.entries[name], second.entries[name]
    chunks = zip(stored_chunks(first, name, READ_BLOCK), stored_chunks(second, name, READ_BLOCK), strict=False)
    return entries[0] == entries[1] and all(bytes(one) == bytes(other) for one, other in chunks)


def unchanged(checkpoints: Sequence[Checkpoint], name: str) -> bool:
    """Tell whether the tensor of that name holds the same bytes in all of two or more checkpoints.

    Raises InputError as reading does.
    """
    first, *others = checkpoints
    return bool(others) and all(same_bytes(first, other, name) for other in reversed(others))


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
    norm = Workspace(CHUNK).norm

    def over_chunks(parts: Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], ...]]) -> tuple[float, ...]:
        """Return the norms of what is made of u and v, joined as those of a single tensor are."""
        chunks = zip(array_chunks(first, name), array_chunks(second, name), strict=True)
        columns = zip(*(map(norm, parts(u, v)) for u, v in chunks), strict=True)
        return tuple(reduce(joined_norm, norms, 0.0) for norms in columns) or (0.0, 0.0, 0.0)

    norm_u, norm_v, half = over_chunks(lambda u, v: (u, v, v / 2 - u / 2))  # halved, so that none overflows
    if not all(map(math.isfinite, (norm_u, norm_v, half))):
        return Pair(math.nan, math.nan, math.nan, None)
    angle = None
    if norm_u and norm_v:
        chord, cochord = over_chunks(lambda u, v: (u / norm_u - v / norm_v, u / norm_u + v / norm_v))
        angle = angle_between(chord, cochord)
    return Pair(norm_u, norm_v, 2 * half, angle)
