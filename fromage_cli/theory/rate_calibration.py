"""From the rate of least loss after a short run to the rate to train at: constants of a study, and what they hold for.

Source: docs/learning-rate-study.md. log2 rate = offset + exponent * log2 r.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """What the study found for one optimizer."""

    typical: float
    """Geometric mean of the best learning rates."""
    offset: float
    """Of a short run from the initialisation, in octaves."""
    exponent: float = 0.8
    trained_offset: float = -2.0
    """Of a short run from the checkpoint, whose r is multiplied by the loss of the initialisation over the present."""
    trained_exponent: float = 0.6

    def from_initialisation(self, best: float) -> float:
        """The rate to train at, from r of short runs from the initialisation."""
        return math.exp2(self.offset + self.exponent * math.log2(best))

    def from_checkpoint(self, best: float) -> float:
        """The rate to train at, from r of short runs from a checkpoint."""
        return math.exp2(self.trained_offset + self.trained_exponent * math.log2(best))


FROMAGE = Calibration(typical=0.026, offset=-1.74, trained_offset=-2.0)
SGD = Calibration(typical=0.4, offset=-1.0, trained_offset=-1.0)
MOMENTUM = Calibration(typical=0.067, offset=-1.77, trained_offset=-2.1)
ADAMW = Calibration(typical=0.0044, offset=-2.42, trained_offset=-3.6)
INTERVAL = 1.0
"""Octaves below and above the rate."""
LEAST_GAIN = 0.15
"""Part of the loss that the best short run must take away."""


def calibration(name: str | None, momentum: float = 0.0) -> Calibration | None:
    """The constants for an optimizer; None where the study has none.

    Momentum between 0 and .9 lies between them in log(1 - momentum), and so on above.
    """
    known = {"fromage": FROMAGE, "adamw": ADAMW, "adam": ADAMW}
    if name != "sgd":
        return known.get(name or "")
    share = math.log10(1.0 / (1.0 - momentum))

    def between(plain: float, heavy: float) -> float:
        return plain + share * (heavy - plain)

    return Calibration(
        typical=math.exp2(between(math.log2(SGD.typical), math.log2(MOMENTUM.typical))),
        offset=between(SGD.offset, MOMENTUM.offset),
        exponent=between(SGD.exponent, MOMENTUM.exponent),
        trained_offset=between(SGD.trained_offset, MOMENTUM.trained_offset),
        trained_exponent=between(SGD.trained_exponent, MOMENTUM.trained_exponent),
    )
