"""How norms grow along a run: a robust slope, what scale-invariant layers must do, and when numbers overflow.

Source: Bernstein et al., NeurIPS 2020, section 5: an update of relative size eta that is orthogonal to the
weights gives ||W_t|| = ||W_0|| (1 + eta^2)^(t/2).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}
"""The largest finite number of each dtype."""
NEEDED = {3: 6.31, 4: 2.92, 5: 2.35, 6: 2.13}
"""Student's 95th percentile at n - 2 degrees of freedom, for so many points n; about 2 from seven on."""

START = 0.25
"""Share of a run in which weights find their size: healthy norms grow by up to 5 times in it, warm-up included."""
LEAST = 3
"""Increments without which a median absolute deviation says nothing."""
DEVIATIONS = 1.4826
"""Standard deviations of normal numbers in their median absolute deviation."""
NO_NEWS = 0.01
"""Spread of ln ||W|| below which none is looked for, so that what follows frozen layers is not endlessly far."""


def drift(positions: Sequence[float], values: Sequence[float]) -> tuple[float, float | None]:
    """The median slope and the larger of its two standard errors: for independent residuals and for a random walk.

    Norms along a run are nearer to a random walk: each starts where the last one ended.
    """
    slope, error = theil_sen(positions, values)
    return slope, None if error is None else max(error, random_walk_error(positions, values))


def is_drift(slope: float, error: float | None, count: int) -> bool:
    """Whether the slope of so many points exceeds its standard error as often as NEEDED says, twice from seven on."""
    return slope > NEEDED.get(count, 2.0) * (error or 0.0)


def random_walk_error(positions: Sequence[float], values: Sequence[float]) -> float:
    """The standard error of the mean increment per step of three points or more of a random walk with drift.

    Increments d over distances h have the mean m h and the variance v h: v = sum (d - m h)^2 / h / (n - 2), error
    sqrt(v / sum h); where all h are 1, sd(d) / sqrt(n - 1). The median slope of a random walk has 1.05 to 1.1 times as
    much.
    """
    increments = [
        (x_next - x, y_next - y) for (x, y), (x_next, y_next) in pairwise(zip(positions, values, strict=True))
    ]
    length = positions[-1] - positions[0]
    mean = (values[-1] - values[0]) / length
    variance = math.fsum((d - mean * h) ** 2 / h for h, d in increments) / (len(increments) - 1)
    return math.sqrt(variance / length)


def out_of_line(
    positions: Sequence[float], values: Sequence[float], others: Sequence[Sequence[float]] = ()
) -> tuple[int, float, float] | None:
    """The interval whose increment lies furthest from what the rest of a run and its siblings make one expect.

    Returns its place, its excess and that over the spread of the rest. Over a distance h, r is its increment per step,
    and m the median of all others. Those of the siblings (`others`, at the same positions) are among them. The excess
    is (r - m) h. The spread is their median absolute deviation times 1.4826 h, at least NO_NEWS. Intervals that begin
    in the first quarter of the run only serve for comparison: norms grow fastest there. None where there are no later
    ones, or fewer than LEAST others.
    """
    lengths = [following - position for position, following in pairwise(positions)]
    runs = [
        [(after - before) / length for (before, after), length in zip(pairwise(one), lengths, strict=True)]
        for one in (values, *others)
    ]
    start, found = positions[0] + START * (positions[-1] - positions[0]), []
    for place, length in enumerate(lengths):
        rest = [rate for run in runs for index, rate in enumerate(run) if run is not runs[0] or index != place]
        if positions[place] < start or len(rest) < LEAST:
            continue
        middle = _middle(rest)
        excess = (runs[0][place] - middle) * length
        spread = max(DEVIATIONS * length * _middle([abs(rate - middle) for rate in rest]), NO_NEWS)
        found.append((place, excess, abs(excess) / spread))
    return max(found, key=lambda each: min(abs(each[1]), each[2] * NO_NEWS), default=None)


def _middle(values: Sequence[float]) -> float:
    return _between(sorted(values), (len(values) - 1) / 2)


def theil_sen(positions: Sequence[float], values: Sequence[float]) -> tuple[float, float | None]:
    """The median slope over all pairs of points and its standard error for independent residuals; `positions` increase.

    The error is half the width of Sen's interval at one standard deviation of Kendall's statistic. That has
    sigma^2 = n (n - 1) (2 n + 5) / 18; None for two points. Source: Sen, *J. Am. Stat. Assoc.* 63 (1968).
    """
    count = len(positions)
    slopes = sorted(
        (values[j] - values[i]) / (positions[j] - positions[i]) for i in range(count) for j in range(i + 1, count)
    )
    middle = _between(slopes, (len(slopes) - 1) / 2)
    if count < 3:
        return middle, None
    reach = math.sqrt(count * (count - 1) * (2 * count + 5) / 18) / 2
    centre = (len(slopes) - 1) / 2
    return middle, (_between(slopes, centre + reach) - _between(slopes, centre - reach)) / 2


def _between(ordered: Sequence[float], place: float) -> float:
    """The value at a fractional place of an ordered list, the ends beyond it."""
    place = min(max(place, 0.0), len(ordered) - 1.0)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def orthogonal_growth(relative_step: float) -> float:
    """The growth of ln ||W|| in one orthogonal step: ½ ln(1 + eta^2)."""
    return math.log1p(relative_step**2) / 2


def step_without_memory(
    averages: Literal["momentum", "betas"] | None, rate: float, total: float = 1.0, first_beta: float = 0.0
) -> float:
    """The relative step delta, as if without memory, by which an optimizer makes a scale-invariant layer grow.

    By what it averages relative steps of size eta. Momentum, LARS: eta H, whose buffer adds up rescaled gradients;
    `total` is H, the sum of what one gradient does over the steps that follow, 1 / (1 - momentum) without dampening.
    Betas, LAMB: eta sqrt((1 + beta1) / (1 - beta1)), whose steps are of size eta and overlap by beta1. Exact without
    memory, else for gradients that are noise. None, Fromage: 0, for it divides by sqrt(1 + eta^2).
    """
    if averages == "momentum":
        return rate * total
    return rate * math.sqrt((1 + first_beta) / (1 - first_beta)) if averages == "betas" else 0.0


def mean_over(positions: Sequence[float | None], values: Sequence[float]) -> float:
    """The mean of a curve through the points, linear between them; without two known positions that of the values."""
    points = [(x, y) for x, y in zip(positions, values, strict=True) if x is not None]
    if min(values) == max(values):
        return values[0]
    if len(points) < 2:
        return math.fsum(values) / len(values)
    area = math.fsum((x_next - x) * (y + y_next) / 2 for (x, y), (x_next, y_next) in pairwise(points))
    return area / (points[-1][0] - points[0][0])


def first_passage(positions: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Where a curve through the points first reaches a level from below, linear between them; None where it never does.

    `positions` increase.
    """
    if values[0] >= level:
        return positions[0]
    for (x, y), (x_next, y_next) in pairwise(zip(positions, values, strict=True)):
        if y_next >= level:
            return x + (x_next - x) * (level - y) / (y_next - y)
    return None


def steps_until(value: float, limit: float, growth: float) -> float | None:
    """Steps until value exp(growth t) reaches the limit; 0 where it has, None where it never does."""
    if value >= limit:
        return 0.0
    return math.log(limit / value) / growth if growth > 0.0 and value > 0.0 else None
