"""Reading curves over a log-spaced grid: where they cross a level, where they are least, how steep they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Literal

COARSE = 5.0
"""Factor between points of a grid beyond which the losses between them are not known."""
Relation = Literal["crossing", "above-grid", "below-grid", "uncertifiable"]
TAIL = (0.05, 0.1)
"""Relative steps between which the slope of a curve's end is taken."""


@dataclass(frozen=True)
class Point:
    """A place on the eta axis, or the side of the grid on which it must lie."""

    eta: float | None
    """Interpolated in log eta; None when the grid does not contain it."""
    relation: Relation
    """`crossing`: it is `eta`; `below-grid`, `above-grid`: it lies outside; `uncertifiable`: there is none."""
    upper: float | None = None
    """It lies below this, and no more is known. That is the first point where it is below the grid. Else it is the
    first point that is not finite or lies far beyond, with `eta` the last one before."""


def running_maximum(values: Sequence[float]) -> list[float]:
    """The largest value so far at each point; a value that is not a number counts as infinite."""
    highest, result = -math.inf, []
    for value in values:
        highest = max(highest, math.inf if math.isnan(value) else value)
        result.append(highest)
    return result


def first_crossing(etas: Sequence[float], values: Sequence[float], level: float) -> Point:
    """Where a rising positive curve first reaches `level`, ln value being linear in ln eta between points.

    `level` <= 0 is `uncertifiable`: no positive curve stays below it.
    """
    if level <= 0.0:
        return Point(None, "uncertifiable")
    for index, value in enumerate(values):
        if not value < level:
            if index == 0:
                return Point(None, "below-grid", etas[0])
            low = values[index - 1]
            if not math.isfinite(value) or low <= 0.0:
                return Point(etas[index - 1], "crossing", etas[index])
            fraction = math.log(level / low) / math.log(value / low)
            return Point(_between(etas[index - 1], etas[index], fraction), "crossing")
    return Point(None, "above-grid")


def _between(low: float, high: float, fraction: float) -> float:
    """The place so far from `low` to `high`, in their logarithms."""
    return float(low * (high / low) ** fraction)


def first_sign_change(etas: Sequence[float], values: Sequence[float]) -> Point:
    """Where a curve that starts negative first becomes non-negative, linear in ln eta between points.

    A value that is not a number counts as positive.
    """
    for index, value in enumerate(values):
        if not value < 0.0:
            if index == 0:
                return Point(None, "below-grid", etas[0])
            low = values[index - 1]
            if not (math.isfinite(value) and math.isfinite(low)):
                return Point(etas[index - 1], "crossing", etas[index])
            return Point(_between(etas[index - 1], etas[index], low / (low - value)), "crossing")
    return Point(None, "above-grid")


def minimum(etas: Sequence[float], values: Sequence[float], start: float) -> Point:
    """The minimum of a curve that leaves `start` at eta = 0, by a parabola in ln eta around it.

    Beside the first point the parabola is one in eta through 0; beside a point that is not finite there is none, and
    the least point stands. `below-grid`: no point of the grid lies below `start`; `above-grid`: the least is the last,
    so that the minimum lies beyond the last but one. An empty grid is exceeded.
    """
    if not values:
        return Point(None, "above-grid")
    finite = [math.inf if math.isnan(value) else value for value in values]
    index = min(range(len(finite)), key=finite.__getitem__)
    if finite[index] >= start:
        return Point(None, "below-grid", etas[0])
    if index == len(finite) - 1:
        return Point(None, "above-grid")
    if not math.isfinite(finite[index + 1]):
        return Point(etas[index], "crossing", etas[index + 1])
    if index == 0:
        return Point(_vertex((0.0, *etas[:2]), (start, *finite[:2]), 1), "crossing")
    return Point(math.exp(_vertex([math.log(eta) for eta in etas], finite, index)), "crossing")


def loss_places(etas: Sequence[float], changes: Sequence[float]) -> tuple[Point, Point]:
    """Where a change of the loss, 0 at eta = 0, is least, and where it first rises above 0.

    Only what lies before the first rise counts for the least, and never is it placed beyond that rise. Where points lie
    more than a factor of COARSE apart around a place, no curve is put through them: it lies between them.
    """
    rise = next((index for index, change in enumerate(changes) if not change < 0.0), len(changes) - 1)
    least, increase = minimum(etas[: rise + 1], changes[: rise + 1], 0.0), first_sign_change(etas, changes)
    if increase.eta is not None and increase.upper is None and etas[rise] > COARSE * etas[rise - 1]:
        increase = Point(etas[rise - 1], "crossing", etas[rise])
    if least.eta is None or least.upper is not None:
        return least, increase
    index = min(range(rise + 1), key=lambda index: changes[index])
    if etas[index + 1] > COARSE * etas[index] or (index and etas[index] > COARSE * etas[index - 1]):
        return Point(etas[index - 1] if index else 0.0, "crossing", etas[index + 1]), increase
    if increase.eta is not None and least.eta > increase.eta:
        least = Point(increase.eta if increase.upper is not None else etas[index], "crossing", increase.upper)
    return least, increase


def _vertex(x: Sequence[float], y: Sequence[float], index: int) -> float:
    left, centre, right = x[index - 1], x[index], x[index + 1]
    if not math.isfinite(y[index - 1]):
        return centre
    rise, fall = (y[index + 1] - y[index]) / (right - centre), (y[index] - y[index - 1]) / (centre - left)
    curvature = (rise - fall) / (right - left)
    if curvature <= 0.0:
        return centre
    return min(max(0.5 * (left + centre) - fall / (2.0 * curvature), left), right)


def tail_slope(etas: Sequence[float], values: Sequence[float]) -> float | None:
    """The least-squares slope d ln(1 + b) / d ln(1 + eta) over eta in TAIL.

    With fewer than three points of the grid in there, the curve is interpolated at both its ends too; None when the
    grid does not span it or a value there is not finite.
    """
    points = [(eta, value) for eta, value in zip(etas, values, strict=True) if TAIL[0] <= eta < TAIL[1]]
    if len(points) < 3:
        ends = [(eta, interpolate(etas, values, eta)) for eta in TAIL]
        if any(value is None for _, value in ends):
            return None
        points += [(eta, value) for eta, value in ends if value is not None]
    if not all(math.isfinite(value) for _, value in points):
        return None
    x, y = zip(*((math.log1p(eta), math.log1p(value)) for eta, value in points), strict=True)
    return linear_regression(x, y).slope


def interpolate(etas: Sequence[float], values: Sequence[float], eta: float) -> float | None:
    """The value at `eta`, ln value being linear in ln eta; None outside the grid or beside a value <= 0."""
    for index in range(1, len(etas)):
        low, high = values[index - 1], values[index]
        if etas[index - 1] * (1 - 1e-12) <= eta <= etas[index] * (1 + 1e-12) and low > 0.0 and math.isfinite(high):
            fraction = math.log(eta / etas[index - 1]) / math.log(etas[index] / etas[index - 1])
            return float(low * (high / low) ** fraction)
    return None
