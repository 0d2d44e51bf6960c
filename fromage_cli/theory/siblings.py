"""Which of many like tensors is out of line: robust statistics that a few odd ones cannot hide in.

Siblings are tensors of one kind and shape whose names differ by numbers alone, as in a network's blocks; where there
are too few of them, all of one kind and shape. Source of the slope: Siegel, *Robust regression using repeated medians*,
Biometrika 69 (1982).
"""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LEAST = 4
"""Siblings at least: of three, any one may be the odd one."""
DEVIATIONS = 5.0
"""Robust standard deviations that a sibling must lie beyond what the others scatter by."""
WEIGHT_FACTOR = 3.4
"""RMS of weights beside siblings from which on it is said; larger ones are a warning (docs/early-warning.md)."""
GAUSSIAN = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class OutOfLine:
    """A layer that differs from its siblings: layers of its kind and shape, in other blocks if there are enough."""

    name: str
    quantity: str
    """`weights`: their RMS; `step`: relative_step; `gradient`: its norm."""
    factor: float
    """The quantity over the siblings' median, the trend along depth taken out."""


def sibling_groups(kinds: Mapping[str, Hashable]) -> list[list[str]]:
    """Groups names of tensors whose kind is the same, in their order; each group has LEAST members or more.

    `kinds`: by name whatever must agree between siblings, such as module class and shape.
    """
    roles: dict[Hashable, list[str]] = {}
    for name, kind in kinds.items():  # blocks.3.up.weight and blocks.7.up.weight, not blocks.3.down.weight
        roles.setdefault((re.sub(r"\d+", "#", name), kind), []).append(name)
    rest = {name: kinds[name] for group in roles.values() if len(group) < LEAST for name in group}
    mixed: dict[Hashable, list[str]] = {}
    for name in kinds:
        if name in rest:
            mixed.setdefault(rest[name], []).append(name)
    return [group for group in (*roles.values(), *mixed.values()) if len(group) >= LEAST]


def repeated_median_slope(values: Sequence[float]) -> float:
    """The slope of values at 0, 1, 2, …: the median over the points of the median slope to all others.

    Half of the points, less one, may be anything without moving it beyond what the rest allow.
    """
    places = range(len(values))
    return median(median((values[j] - values[i]) / (j - i) for j in places if j != i) for i in places)


def out_of_line(values: Sequence[float], factor: float) -> dict[int, float]:
    """The factors by which some of these positive values differ from their siblings, by their place.

    The values stand in the order of depth. The trend along depth and the median are taken off their logarithms. What is
    left must exceed ln(factor), and DEVIATIONS times the robust standard deviation of what is left of all.
    """
    if len(values) < LEAST or not all(0.0 < value < math.inf for value in values):
        return {}
    logs = [math.log(value) for value in values]
    slope = repeated_median_slope(logs)
    flat = [value - slope * place for place, value in enumerate(logs)]
    centre = median(flat)
    beside = [value - centre for value in flat]
    scatter = GAUSSIAN * median(abs(value) for value in beside)
    limit = max(math.log(factor), DEVIATIONS * scatter)
    return {place: math.exp(value) for place, value in enumerate(beside) if abs(value) > limit}


def odd_weights(kinds: Mapping[str, Hashable], sizes: Mapping[str, float]) -> tuple[OutOfLine, ...]:
    """Return the tensors whose weights are larger or smaller than those of their siblings.

    `kinds`: of the tensors that are compared, by name, in the order of depth; `sizes`: their root mean squares. A
    tensor of zeros has no size, and is left out.
    """
    sized = {name: kind for name, kind in kinds.items() if sizes[name] > 0.0}
    compared = ((group, out_of_line([sizes[name] for name in group], WEIGHT_FACTOR)) for group in sibling_groups(sized))
    return tuple(
        OutOfLine(group[place], "weights", factor) for group, found in compared for place, factor in found.items()
    )
