"""Which rate trains best, by Bayes' rule from usual rates and short runs, and what a rate loses.

All rates are octaves, log2 of learning rates.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

FINENESS = 32
"""Places in an octave at which the density is kept; the rate is known to half of their distance."""
REACH = 12.0
"""Octaves beyond what every source says that are looked at."""


@dataclass(frozen=True)
class Belief:
    """What one source says of the best rate: Student's t around a centre, in octaves.

    Few degrees of freedom make heavy tails: where two sources are far apart the narrower one wins.
    """

    centre: float
    scale: float
    freedom: float

    def logarithm(self, octave: float) -> float:
        """Of the density, up to a constant."""
        return -0.5 * (self.freedom + 1.0) * math.log1p(((octave - self.centre) / self.scale) ** 2 / self.freedom)


@dataclass(frozen=True)
class Posterior:
    """How probable it is that each rate is the best."""

    octaves: tuple[float, ...]
    """Rising, at equal distances."""
    weights: tuple[float, ...]
    """Their sum is 1."""

    def quantile(self, share: float) -> float:
        """Below which rate the best one lies with that probability."""
        sums = list(accumulate(self.weights))
        place = min(bisect_left(sums, share), len(sums) - 1)
        before = sums[place - 1] if place else 0.0
        inside = (share - before) / self.weights[place] if self.weights[place] else 0.5
        width = self.octaves[1] - self.octaves[0]
        return min(self.octaves[place] + (min(max(inside, 0.0), 1.0) - 0.5) * width, self.octaves[-1])

    def expected(self, octave: float, lost: Callable[[float], float]) -> float:
        """The expected loss at a rate; `lost`: by how many octaves the rate is above the best one."""
        pairs = zip(self.octaves, self.weights, strict=True)
        return math.fsum(weight * lost(octave - best) for best, weight in pairs if weight > 1e-9)

    def least_lost(self, lost: Callable[[float], float]) -> tuple[float, float]:
        """The rate at which least is lost in expectation, and how much."""
        low, high = self.quantile(0.02), self.quantile(0.98)
        inside = [octave for octave in self.octaves if low <= octave <= high] or [self.quantile(0.5)]
        least, octave = min((self.expected(octave, lost), octave) for octave in inside)
        return octave, least


def posterior(beliefs: Sequence[Belief], highest: float = math.inf) -> Posterior:
    """What all sources say together, each taken as independent of the others; the best rate is at most `highest`."""
    top = min(max(belief.centre for belief in beliefs) + REACH, highest)
    lowest = min(*(belief.centre for belief in beliefs), top) - REACH
    count = round((top - lowest) * FINENESS) + 1
    octaves = tuple(top - place / FINENESS for place in reversed(range(count)))
    logarithms = [math.fsum(belief.logarithm(octave) for belief in beliefs) for octave in octaves]
    most = max(logarithms)
    densities = [math.exp(logarithm - most) for logarithm in logarithms]
    whole = math.fsum(densities)
    return Posterior(octaves, tuple(density / whole for density in densities))
