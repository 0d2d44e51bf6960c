"""How far apart tensors of the same name in two checkpoints are: distances and angles in float64, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK, array_chunks, stored_chunks
from fromage_cli.checkpoints.reading.known_numbers import recall, remember
from fromage_cli.checkpoints.storage.files import READ_BLOCK
from fromage_cli.theory.magnitudes import Workspace, joined_norm
from fromage_cli.theory.relative_trust import angle_between


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

    Reads each twice, once where its norm is known. Raises InputError as reading does.
    The angle is 2 atan2(‖û − v̂‖, ‖û + v̂‖), exact where 1 − cos has no digits left.
    """
    if known := recall(Pair, [name], first, second):
        return known[name]
    norm = Workspace(CHUNK).norm

    def norm_in(one: Checkpoint) -> float:
        """Return the norm of all of it, joined over chunks as those of other readers are."""
        found = recall(float, [name], one) or {name: reduce(joined_norm, map(norm, array_chunks(one, name)), 0.0)}
        remember(found, one)
        return found[name]

    norm_u, norm_v = norm_in(first), norm_in(second)
    pair = Pair(math.nan, math.nan, math.nan, None)
    if math.isfinite(norm_u) and math.isfinite(norm_v):
        if norm_u == 0.0 or norm_v == 0.0:
            pair = Pair(norm_u, norm_v, max(norm_u, norm_v), None)
        else:
            half = chord = cochord = 0.0
            for u, v in zip(array_chunks(first, name), array_chunks(second, name), strict=True):
                half = joined_norm(half, norm(v / 2 - u / 2))  # the difference itself may overflow
                chord = joined_norm(chord, norm(u / norm_u - v / norm_v))
                cochord = joined_norm(cochord, norm(u / norm_u + v / norm_v))
            pair = Pair(norm_u, norm_v, 2 * half, angle_between(chord, cochord))
    remember({name: pair}, first, second)
    return pair
