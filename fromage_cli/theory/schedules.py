"""The learning rate along a run, as a share of its peak: a warm-up, then constant, linear, cosine, or a table."""

import csv
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fromage_cli.errors import InputError

SHAPES = ("constant", "linear", "cosine")
"""Linear and cosine fall to 0 at the end of the run."""
HEADER = ("step", "learning_rate")
MOST_POINTS = 200_000
"""Lines of a table: logs of every step of a long run."""
MOST_PIECES = 10_000
"""Into which a run is cut for integration: shorter than any schedule's features, and a fraction of a second."""


@dataclass(frozen=True)
class Schedule:
    """How the rate of a run goes, relative to the peak; steps count the updates made before."""

    shape: str = "constant"
    """One of SHAPES, or `table`."""
    warmup: float = 0.0
    """Steps over which the rate rises linearly from 0."""
    total: float | None = None
    """Steps of the run; None where they are not known, which only a constant rate allows."""
    floor: float = 0.0
    """Where linear and cosine end, relative to the peak."""
    points: tuple[tuple[float, float], ...] = ()
    """Of a table: steps and shares of the peak, straight lines between, constant outside."""
    every: float = 1.0
    """Updates between changes of the rate, in which `warmup`, `total` and `points` are counted: 1, or an epoch's."""

    def rate_factor(self, step: float) -> float:
        """The share of its peak that the rate has for the update after so many; before the first one, as at it."""
        at = max(0.0, step if self.every == 1.0 else math.floor(step / self.every))
        if self.points:
            return _between(self.points, at)
        if at < self.warmup:
            return at / self.warmup
        if self.shape == "constant" or self.total is None:
            return 1.0
        done = min((at - self.warmup) / max(self.total - self.warmup, 1.0), 1.0)
        left = 1.0 - done if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.floor + (1.0 - self.floor) * left

    @property
    def name(self) -> str:
        """Its shape; `warm-up` where it is constant after one."""
        return "warm-up" if self.shape == "constant" and self.warmup and not self.points else self.shape

    @property
    def end(self) -> float | None:
        """How many updates the run has; None where it is not known."""
        last = self.points[-1][0] if self.points and self.total is None else self.total
        return None if last is None else last * self.every

    def constant_from(self, step: float) -> bool:
        """Whether the rate no longer changes from that step on."""
        if self.points:
            at = step / self.every
            ahead = [factor for place, factor in self.points if place >= at]
            return all(factor == self.rate_factor(step) for factor in ahead)
        return self.shape == "constant" and step >= self.warmup * self.every

    def pieces(self, first: float, last: float, most: int = MOST_PIECES) -> list[tuple[float, float, float]]:
        """The run between two steps, cut into at most so many: where each ends, its steps, the factor at its middle."""
        count = min(max(math.ceil(last - first), 1), most)
        ends = [first + (last - first) * index / count for index in range(count + 1)]
        half = 0.5 if last - first > count else 0.0  # single steps have the factor of the step itself
        return [
            (stop, stop - start, self.rate_factor(start + half * (stop - start - 1.0)))
            for start, stop in pairwise(ends)
        ]


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at a place by straight lines between points, and by the nearest one outside."""
    index = bisect_right(points, at, key=lambda point: point[0])
    if index in (0, len(points)):
        return points[min(index, len(points) - 1)][1]
    (start, low), (stop, high) = points[index - 1 : index + 1]
    return low + (high - low) * (at - start) / (stop - start)


def parse_table(text: str, name: str) -> tuple[Schedule, float]:
    """The schedule in a CSV table of steps and learning rates, and the highest of these, which is its peak.

    `name`: the file, for errors. Raises InputError, which says what came and what was expected.
    """
    points: list[tuple[float, float]] = []
    try:
        for number, cells in enumerate(csv.reader(text.splitlines()), start=1):
            if number == 1:
                if tuple(cell.strip().lower() for cell in cells) != HEADER:
                    raise _refused(
                        name, f"its first line is {','.join(cells)[:60]!r}", f"the header {','.join(HEADER)}"
                    )
                continue
            if number > MOST_POINTS:
                raise _refused(name, f"it has more than {MOST_POINTS} lines", "fewer, with straight lines between them")
            if cells:
                points.append(_point(name, number, cells, points))
    except csv.Error as error:
        raise _refused(name, f"it is not a CSV file ({error})", f"lines of {','.join(HEADER)}") from error
    peak = max((rate for _, rate in points), default=0.0)
    if peak == 0.0:
        found = "every rate in it is 0" if points else "it has no lines below the header"
        raise _refused(name, found, "at least one rate above 0")
    return Schedule("table", points=tuple((step, rate / peak) for step, rate in points)), peak


def _point(name: str, number: int, cells: Sequence[str], before: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """One line of a table; raises InputError."""
    try:
        step, rate = map(float, cells)
    except ValueError:
        step = rate = math.nan
    if not (0.0 <= step < math.inf and 0.0 <= rate < math.inf):
        raise _refused(name, f"line {number} is {','.join(cells)[:60]!r}", "a step and a rate, both 0 or above")
    if before and step <= before[-1][0]:
        raise _refused(name, f"step {step:g} in line {number} follows {before[-1][0]:g}", "steps in rising order")
    return step, rate


def _refused(name: str, found: str, expected: str) -> InputError:
    return InputError(
        f"--schedule {name}: {found}; expected {expected}.", f"Give one of {', '.join(SHAPES)}, or a CSV table."
    )


EXACT, DISTINCT = 0.005, 3.0
"""Logged rates follow a shape up to this gap, in shares of the peak. It fits so many times better than the next
shape."""
WARMUPS = 200
"""Lengths of a warm-up that are tried, up to half of the run."""


def fit_schedule(seen: Sequence[tuple[float, float]], total: float) -> Schedule | None:
    """The schedule of so many steps that rates at some steps, as shares of the peak, follow; None where none does.

    Two shapes that both do are none, for they go apart later.
    """
    rising = [step / factor for step, factor in seen if 0.0 < factor < 1.0]
    warmups = {0.0, *(ratio for ratio in rising if ratio < total)}
    warmups |= {0.5 * total * index / WARMUPS for index in range(1, WARMUPS)}
    best = {}
    for shape in SHAPES:
        tried = [Schedule(shape, round(warmup), total) for warmup in sorted(warmups)]
        gaps = [max(abs(one.rate_factor(step) - factor) for step, factor in seen) for one in tried]
        best[shape] = min(zip(gaps, tried, strict=True), key=lambda pair: pair[0])
    first, second, *_ = sorted(best.values(), key=lambda pair: pair[0])
    return first[1] if first[0] <= EXACT and DISTINCT * max(first[0], 1e-6) < second[0] else None
