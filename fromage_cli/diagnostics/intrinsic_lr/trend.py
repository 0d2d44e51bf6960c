"""How SGD's gradients changed in size so far, by the norms of a run's layers, and what to expect."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression, median, stdev

from fromage_cli.diagnostics.intrinsic_lr.forecast import SHRANK, explained
from fromage_cli.missing import Missing, Why
from fromage_cli.theory.relaxation import Motion, Trend
from fromage_cli.theory.schedules import Schedule

FIRST, LATEST = 0.5, 0.75
"""Shares of the steps so far: the first checkpoint that is used lies at the one or before it, at worst at the other."""
STEEPEST = 4.0
"""Power of steps beyond which none is looked for."""
HALVINGS = 16
"""Of the powers between; they leave 1e-4."""
UNSURE = 0.25
"""Standard error of the power over layers, from which on it is not known."""
TOO_FEW = Missing(
    Why.NOT_ASKED, "it takes three checkpoints, the first at three quarters of the steps so far or before"
)


@dataclass(frozen=True)
class Track:
    """A layer's norm at the checkpoints of a run."""

    motion: Motion
    peak: float
    norms: tuple[float, ...]
    """Of the entries that receive gradients."""


@dataclass(frozen=True)
class Past:
    """The checkpoints from which a trend is found, and that trend."""

    schedule: Schedule
    steps: tuple[int, ...]
    power: float = 0.0
    """E‖g̃‖² went as steps to this power, in all layers alike."""

    @property
    def behind(self) -> Trend:
        """How they went so far, by which the way from the first checkpoint on is judged."""
        return Trend(self.power, self.steps[-1], max(self.steps[0], 0.5))

    @property
    def ahead(self) -> Trend:
        """What is expected from now on: to fall is not, nor to grow faster than the steps do."""
        return Trend(min(max(self.power, 0.0), 1.0), self.steps[-1])

    def sizes(self, track: Track, power: float) -> list[float] | Missing:
        """E‖g̃‖² of a layer now, by each two consecutive checkpoints, if it went as steps to this power."""
        norms, trend = track.norms[-len(self.steps) :], Trend(power, self.steps[-1])
        return explained(track.motion, self.schedule, track.peak, self.steps, norms, trend=trend)

    def slopes(self, tracks: Iterable[Track], power: float) -> list[float]:
        """How much faster than as steps to this power E‖g̃‖² of each layer grew; none for one that shrank too fast."""
        places = [math.log(0.5 * (first + last)) for first, last in pairwise(self.steps)]
        sizes = (self.sizes(track, power) for track in tracks)
        return [
            linear_regression(places, [math.log(each) for each in found]).slope
            for found in sizes
            if not isinstance(found, Missing)
        ]


def find_past(tracks: Sequence[Track], schedule: Schedule, steps: Sequence[int]) -> Past | Missing:
    """The power of steps that explains the norms of layers, at three checkpoints or more: the median over them.

    Layers of one network share it, because single ones are noisy; where they differ much, it is not known.
    """
    early = [index for index, step in enumerate(steps[:-2]) if step <= FIRST * steps[-1]]
    used = tuple(steps[early[-1] if early else 0 :])
    if len(used) < 3 or used[0] > LATEST * used[-1] or any(first >= last for first, last in pairwise(used)):
        return TOO_FEW
    past = Past(schedule, used)
    low, high = -STEEPEST, STEEPEST
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        slopes = past.slopes(tracks, middle)
        if not slopes:
            return SHRANK
        low, high = (middle, high) if median(slopes) > 0.0 else (low, middle)
    if len(slopes) > 1 and stdev(slopes) / math.sqrt(len(slopes)) > UNSURE:
        return Missing(Why.NO_FORMULA, "the layers' norms do not agree on how gradients changed")
    return Past(schedule, used, middle)
