"""The norm of one layer along the schedule of its rate, and how far each step turns it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from statistics import fmean

from fromage_cli.diagnostics.intrinsic_lr.formulas import Units, formulas_of
from fromage_cli.diagnostics.intrinsic_lr.prediction import predict
from fromage_cli.diagnostics.intrinsic_lr.subject import Subject, sized
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.effective_rate import NO_NORM
from fromage_cli.theory.relaxation import STEADY, Motion, Trend
from fromage_cli.theory.schedules import MOST_PIECES, Schedule

TURNS = 64
"""Places between two checkpoints at which the angle of a step is taken."""
VANISHES = Missing(Why.ZERO_OR_NOT_FINITE, "on the way the norm comes to zero, or grows without bound")
SHRANK = Missing(Why.NO_FORMULA, "between two checkpoints the norm fell faster than decay alone lets it")


@dataclass(frozen=True)
class Point:
    """A layer at one step of a run."""

    step: float
    norm: float
    """‖W‖ of the whole."""
    active_norm: float
    """Of the entries that receive gradients."""
    rate: float
    angle: float
    """Radians that the step turns it."""


@dataclass(frozen=True)
class Course:
    """What moves a layer along a schedule, from where its units are."""

    layer: Subject
    motion: Motion
    units: Units
    peak: float
    schedule: Schedule
    inactive: float = 0.0
    """Squares of the entries that never receive a gradient, which only decay."""
    trend: Trend = STEADY
    """Of what the gradients of its units are as large as."""

    @property
    def whole(self) -> float:
        """E‖g̃‖² of all units together, under SGD: ‖W‖² Σ E‖g_u‖²."""
        return sum(size for size, _ in self.units) * sum(source / size for size, source in self.units)

    def scaled(self, share: float) -> "Course":
        """The same from where the norm is this share of what it is."""
        return replace(self, units=tuple((size * share * share, source) for size, source in self.units))

    def with_gradients(self, sizes: Sequence[float], trend: Trend) -> "Course":
        """The same with this trend; the mean of `sizes`, if there are any, is E‖g̃‖² of all units together."""
        scale = math.exp(fmean(map(math.log, sizes))) / self.whole if sizes and self.whole else 1.0
        return replace(self, units=tuple((size, source * scale) for size, source in self.units), trend=trend)

    def points(self, steps: Sequence[float]) -> list[Point]:
        """The layer at each of these steps, the first of which is where it starts."""
        ends = reached(self.motion, self.schedule, self.peak, tuple(steps), self.trend)
        return [self._point(step, *end) for step, end in zip(steps, ends, strict=True)]

    def _point(self, step: float, kept: float, added: float) -> Point:
        power, rate = self.motion.power, self.peak * self.schedule.rate_factor(step)
        growth = self.trend.at(step)
        units = tuple(
            (_square(kept * size ** (power / 2.0) + added * source, power), source * growth)
            for size, source in self.units
        )
        active = sum(size for size, _ in units)
        decayed = self.inactive * (kept ** (2.0 / power) if power > 0 else 1.0)
        return Point(step, math.sqrt(active + decayed), math.sqrt(active), rate, self.angle(units, rate))

    def angle(self, units: Units, rate: float) -> float:
        """Radians that one step at this rate turns such units; not a number where none of them has a size."""
        formulas, sizes = formulas_of(self.layer), tuple(unit for unit in units if sized(unit[0]))
        return formulas.angle(self.layer, sizes, rate) if formulas is not None and sizes else math.nan

    def rotation(self, first: float, last: float) -> float | Missing:
        """The angle between weights at two steps, if every step went its own way: that of free diffusion."""
        settling = known(predict(replace(self.layer, rate=self.peak)).equilibrium)
        if settling is None or last - first < 1.0:
            return Missing(Why.NO_FORMULA, "no formula gives how its steps add up")
        places = sorted({round(first + (last - first) * index / TURNS) for index in range(TURNS + 1)})
        squares = [point.angle * point.angle for point in self.points(places)]
        turned = sum(
            0.5 * (a + b) * (stop - start)
            for (a, b), (start, stop) in zip(pairwise(squares), pairwise(places), strict=True)
        )
        if not math.isfinite(turned):
            return VANISHES
        diffusion = settling.diffusion / settling.rotation**2 * turned / (last - first)
        return settling.rotation_over(round(last - first), diffusion)


def _square(value: float, power: int) -> float:
    """‖w‖² where ‖w‖^power has this value: without bound where a negative power of it is nothing."""
    return value ** (2.0 / power) if power > 0 or sized(value) else 0.0 if value > 1.0 else math.inf


@lru_cache(maxsize=256)
def reached(
    motion: Motion, schedule: Schedule, peak: float, steps: tuple[float, ...], trend: Trend = STEADY
) -> tuple[tuple[float, float], ...]:
    """D and I of a motion at each of these steps, from the first on."""
    most = max(MOST_PIECES // max(len(steps) - 1, 1), 1)
    spans = [schedule.pieces(*pair, most) for pair in pairwise(steps)]
    ways = list(motion.along(peak, [piece for span in spans for piece in span], trend))
    found, done = [(1.0, 0.0)], 0
    for span in spans:
        done += len(span)
        found.append(ways[done - 1][1:])
    return tuple(found)


def motion_of(layer: Subject, peak: float | None) -> Motion | Missing:
    """How the norm of a layer goes at a rate, or why that is not known."""
    unsettled, formulas = predict(replace(layer, rate=peak)).unsettled, formulas_of(layer)
    if unsettled is not None and unsettled.code != Why.NO_EQUILIBRIUM:
        return unsettled
    if formulas is None or not sized(layer.norm * layer.norm):
        return NO_NORM
    return formulas.motion(layer, layer.decay or 0.0)


def explained(
    motion: Motion,
    schedule: Schedule,
    peak: float,
    steps: Sequence[float],
    norms: Sequence[float],
    *,
    trend: Trend = STEADY,
) -> list[float] | Missing:
    """What the gradients of a layer are as large as by the norms at each two consecutive steps: G = (y₂ − D y₁) / I."""
    if not all(sized(norm * norm) for norm in norms):
        return NO_NORM
    found = []
    for span, (before, after) in zip(pairwise(steps), pairwise(norm**motion.power for norm in norms), strict=True):
        kept, added = reached(motion, schedule, peak, span, trend)[1]
        if not added or not after > kept * before:
            return SHRANK
        found.append((after - kept * before) / added)
    return found
