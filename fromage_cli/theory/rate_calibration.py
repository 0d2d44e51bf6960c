"""From the losses of short training runs to the rate to train at: one formula, and constants of a study.

Source: docs/learning-rate-study.md. log2 rate = offset + exponent * log2 r, with r the centre of the least losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

SOFTNESS = 0.2
"""Differences of the logarithm of a loss that are small: a rate of e^-0.2 times the weight per such difference."""
CAP = 2.0
"""Logarithm of a loss over the least one, above which all are alike."""
FINENESS = 32
"""Places between two rates at which the loss is interpolated."""


INITIAL_EXPONENT, TRAINED_EXPONENT = 0.85, 0.34
"""The smaller, the less short runs have to say beside the typical rate."""


@dataclass(frozen=True)
class Calibration:
    """What the study found for one optimizer."""

    typical: float
    """Geometric mean of the best learning rates."""
    offset: float
    """Of short runs from the initialisation, in octaves."""
    trained_offset: float
    """Of short runs from a checkpoint."""

    def from_initialisation(self, centre: float) -> float:
        """The rate to train at, from short runs from the initialisation."""
        return math.exp2(self.offset + INITIAL_EXPONENT * math.log2(centre))

    def from_checkpoint(self, centre: float) -> float:
        """The rate to train at, from short runs from a checkpoint."""
        return math.exp2(self.trained_offset + TRAINED_EXPONENT * math.log2(centre))


FROMAGE = Calibration(typical=0.025, offset=-1.30, trained_offset=-2.67)
SGD = Calibration(typical=0.24, offset=0.40, trained_offset=-0.90)
MOMENTUM = Calibration(typical=0.062, offset=-0.12, trained_offset=-1.78)
ADAMW = Calibration(typical=0.0054, offset=-1.41, trained_offset=-4.14)
INTERVAL = 1.0
"""Octaves below and above the rate within which nine of ten best rates lie: of networks that were left out in turn when
the constants were fitted."""
LEAST_GAIN = 0.3
"""Part of the loss that the best short run must take away."""
MOST_SPREAD = 2.0
"""Octaves that the least losses may spread around their centre; two runs are as far apart."""


def momentum_calibration(momentum: float) -> Calibration:
    """The constants of SGD, between those of 0 and .9 in log(1 - momentum), and so on above."""
    share = math.log10(1.0 / (1.0 - momentum))

    def between(plain: float, heavy: float) -> float:
        return plain + share * (heavy - plain)

    return Calibration(
        typical=math.exp2(between(math.log2(SGD.typical), math.log2(MOMENTUM.typical))),
        offset=between(SGD.offset, MOMENTUM.offset),
        trained_offset=between(SGD.trained_offset, MOMENTUM.trained_offset),
    )


@dataclass(frozen=True)
class Valley:
    """Where the losses of several rates are least."""

    centre: float
    """The rate: mean of log rate, weighed by (least loss / loss)^(1/SOFTNESS)."""
    spread: float
    """Standard deviation of log2 rate under the same weights, in octaves."""


def valley_of_least(rates: Sequence[float], losses: Sequence[float]) -> Valley:
    """Around which rate the losses are least, and how sharply.

    `rates` rising, `losses` positive, at least one of them finite. Between two rates ln loss is linear in ln rate; a
    loss above e^CAP times the least, or none, counts as that.
    """
    least = min(losses)
    heights = [min(math.log(loss / least), CAP) if math.isfinite(loss) else CAP for loss in losses]
    logarithms = [math.log2(rate) for rate in rates]
    places: list[float] = []
    masses: list[float] = []
    for left in range(len(rates) - 1):
        width = logarithms[left + 1] - logarithms[left]
        for step in range(FINENESS):
            share = (step + 0.5) / FINENESS
            height = heights[left] + share * (heights[left + 1] - heights[left])
            places.append(logarithms[left] + share * width)
            masses.append(width * math.exp(-height / SOFTNESS))
    weight = math.fsum(masses)
    if weight == 0.0:
        return Valley(rates[0], 0.0)
    mean = math.fsum(map(mul, masses, places)) / weight
    variance = math.fsum(mass * (place - mean) ** 2 for mass, place in zip(masses, places, strict=True)) / weight
    return Valley(math.exp2(mean), math.sqrt(variance))
