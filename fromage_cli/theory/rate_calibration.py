"""From the losses of short training runs to the rate to train at: the constants of a study, and the conclusion.

Source: docs/learning-rate-study.md. All constants are in octaves, log2 of learning rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fromage_cli.theory.rate_curve import RateCurve, ShortRun, centre_of, curve_of, gain_of, noise_of
from fromage_cli.theory.rate_posterior import Belief, posterior

RELIABLE = 0.05
"""Expected part of the achievable fall of the loss that may be lost at a rate that is called reliable."""
INTERVAL = 0.8
"""Probability with which the best rate lies in the interval."""


@dataclass(frozen=True)
class Calibration:
    """What the study found for one optimizer."""

    typical: float
    """Geometric mean of the best learning rates."""
    drift: float
    """By how many octaves short runs prefer a higher rate for every doubling of the whole run's steps over theirs."""
    scale: float
    """Of Student's t around what the short runs say, where seeds agree."""
    studied: bool = True
    """Whether short runs were right against whole ones often enough to call a rate reliable."""


FROMAGE = Calibration(typical=0.025, drift=0.1, scale=0.7)
SGD = Calibration(typical=0.24, drift=0.0, scale=0.9, studied=False)
MOMENTUM = Calibration(typical=0.062, drift=0.2, scale=0.7)
ADAMW = Calibration(typical=0.0054, drift=0.28, scale=0.5)

STUDIED_STEPS = 200
"""Of most whole runs of the study; taken where the length of the run is not known."""
BEYOND_SCALE = 0.2
"""Added to the scale for every doubling of the steps beyond them; the study went up to 1,000."""
USUAL_SCALE, PEAK_SCALE, USUAL_FREEDOM = 1.4, 1.2, 3.0
"""Scales of Student's t around the typical rate and around the run's peak so far; its degrees of freedom."""
TRAINED_BIAS, TRAINED_SCALE = -2.4, 1.6
"""Of short runs from trained weights, which prefer lower rates than whole runs, and the scale around what they say."""
TRAINED_STEEPNESS = 3.0
"""How many times more is lost beside the best rate when training goes on from trained weights."""
STUDIED = (0.75, 1.35)
"""Of the way from no momentum to .9 in log(1 - momentum), between which the study of .9 holds: from .82 to .955."""
RUNS_FREEDOM = 4.0
"""Of Student's t around what the short runs say."""
NOISE_SCALE, UNKNOWN_NOISE = 1.5, 0.3
"""Added to the scale for noise as large as the fall; the noise that is assumed after one seed."""
LEAST_GAIN = 0.05
"""Where the best short run takes away a smaller part of the loss, runs cannot rank the rates."""
PARTS_SCALE, PARTS_BIAS = 2.0, -0.4
"""Times the scale, and added to the bias, where the runs train on batches smaller than the whole run's."""
LOST_BELOW, LOST_ABOVE = 0.03, 0.042
"""Part of the achievable fall that is lost at half and at twice the best rate."""


def momentum_calibration(momentum: float) -> Calibration:
    """The constants of SGD, between those of 0 and .9 in log(1 - momentum), and so on above."""
    share = math.log10(1.0 / (1.0 - momentum))

    def between(plain: float, heavy: float) -> float:
        return plain + share * (heavy - plain)

    return Calibration(
        typical=math.exp2(between(math.log2(SGD.typical), math.log2(MOMENTUM.typical))),
        drift=between(SGD.drift, MOMENTUM.drift),
        scale=max(between(SGD.scale, MOMENTUM.scale), MOMENTUM.scale),
        studied=STUDIED[0] < share < STUDIED[1],
    )


@dataclass(frozen=True)
class WholeRun:
    """The run whose rate is asked for, as far as it is known."""

    steps: float | None = None
    """Those that are left."""
    peak: float | None = None
    """The highest rate that was used so far."""
    new: bool = True
    """Whether it begins at new weights."""
    parts: bool = False
    """Whether its batches are larger than those of the short runs."""

    def usual(self, calibration: Calibration | None) -> list[Belief]:
        """What is known without short runs: the typical rate of new weights, and the peak of the run so far."""
        sources = [(self.peak, PEAK_SCALE)]
        if self.new and calibration is not None:
            sources.append((calibration.typical, USUAL_SCALE))
        return [Belief(math.log2(rate), scale, USUAL_FREEDOM) for rate, scale in sources if rate]

    def lost(self, octaves: float) -> float:
        """The part of the achievable fall that is lost so many octaves above the best rate."""
        return lost(octaves, 1.0 if self.new else TRAINED_STEEPNESS)


@dataclass(frozen=True)
class Conclusion:
    """The rate to train at, by short runs and the usual rate."""

    learning_rate: float | None
    """None where there were no runs."""
    low: float | None
    """From here …"""
    high: float | None
    """… to here the best rate lies with the probability INTERVAL; None where nothing is known."""
    regret: float | None
    """The expected part of the achievable fall of the loss that is lost at the rate."""
    reliable: bool
    reason: str
    """Why it is reliable or not."""


def conclude(
    runs: Sequence[ShortRun],
    start_losses: Sequence[float],
    calibration: Calibration | None,
    whole: WholeRun,
) -> Conclusion:
    """Weighs what is usual against what the runs show; no rate is above the highest whose runs stayed finite."""
    overflowed = [run.learning_rate for run in runs if not math.isfinite(run.loss)]
    lowest = min(overflowed, default=math.inf)
    finite = [run.learning_rate for run in runs if run.learning_rate < lowest]
    curve = curve_of(runs, start_losses) if finite else None
    usual = whole.usual(calibration)
    if curve is None:
        return _without_rate(usual, _why_none(runs), max(finite, default=lowest))
    shown = belief_of(runs, start_losses, curve, calibration or ADAMW, whole)
    found = posterior([*usual, shown], math.log2(max(finite)))
    octave, regret = found.least_lost(whole.lost)
    rate, low, high = (math.exp2(each) for each in (octave, *map(found.quantile, _ENDS)))
    doubt = _doubt(runs, start_losses, calibration, whole, regret)
    return Conclusion(rate, low, high, regret, doubt is None, doubt or "the short runs set the rates apart")


def _doubt(
    runs: Sequence[ShortRun],
    start_losses: Sequence[float],
    calibration: Calibration | None,
    whole: WholeRun,
    regret: float,
) -> str | None:
    """Why a rate is not reliable, the gravest reason; None where it is."""
    overflowed = [run.learning_rate for run in runs if not math.isfinite(run.loss)]
    gain = gain_of(runs, start_losses)
    reasons = {
        f"most short runs overflowed, from {min(overflowed, default=0.0):.2g} on; {SCALES}": (
            2 * len(overflowed) > len(runs)
        ),
        "short runs of this optimizer are not known to find the rate": (calibration is None or not calibration.studied),
        TRAINED: not whole.new,
        "the short runs were not repeated, and one series is often wrong; --probe-budget 360 repeats them": (
            noise_of(runs, start_losses) is None
        ),
        f"the best short run lowered the loss by {100.0 * (gain or 0.0):.1f} % only": (
            gain is not None and gain < LEAST_GAIN
        ),
        "short runs had only parts of a batch": (whole.parts),
        f"the short runs leave it open, and {100.0 * regret:.0f} % of the progress may be lost": regret > RELIABLE,
    }
    return next((words for words, holds in reasons.items() if holds), None)


TRAINED = "from trained weights short runs pointed 5 × too low in a study, and the correction is rough"
SCALES = "check the scale of inputs, targets and loss"

_ENDS = (0.5 - 0.5 * INTERVAL, 0.5 + 0.5 * INTERVAL)


def _why_none(runs: Sequence[ShortRun]) -> str:
    """Why the runs show no curve."""
    if not runs:
        return "no short runs were made"
    overflowed = [run.learning_rate for run in runs if not math.isfinite(run.loss)]
    if len(overflowed) == len(runs):
        return f"every short run overflowed, even at {min(overflowed):.2g}; {SCALES}"
    if overflowed:
        first = min(overflowed)
        return f"no short run lowered the loss of other rows, and from {first:.2g} on they overflowed"
    return "no short run lowered the loss of rows that it did not see"


def _without_rate(usual: Sequence[Belief], reason: str, highest: float) -> Conclusion:
    """The range of what is usual up to the highest rate, where anything is."""
    if not usual:
        return Conclusion(None, None, None, None, False, reason)
    found = posterior(usual, math.log2(highest))
    low, high = (math.exp2(found.quantile(share)) for share in _ENDS)
    return Conclusion(None, low, high, None, False, reason)


def belief_of(
    runs: Sequence[ShortRun],
    start_losses: Sequence[float],
    curve: RateCurve,
    calibration: Calibration,
    whole: WholeRun,
) -> Belief:
    """What the runs say: the centre of their valley less their bias, the less surely the more they are noise."""
    steps, longest = whole.steps or STUDIED_STEPS, max(run.steps for run in runs)
    bias, scale = calibration.drift * max(math.log2(steps / longest), 0.0), calibration.scale
    if not whole.new:
        bias, scale = TRAINED_BIAS, TRAINED_SCALE
    noise = noise_of(runs, start_losses)
    scale += NOISE_SCALE * (UNKNOWN_NOISE if noise is None else noise)
    scale += BEYOND_SCALE * max(math.log2(steps / STUDIED_STEPS), 0.0)
    if whole.parts:
        bias, scale = bias + PARTS_BIAS, PARTS_SCALE * scale
    return Belief(centre_of(curve) - bias, scale, RUNS_FREEDOM)


def lost(octaves: float, steepness: float = 1.0) -> float:
    """The part of the achievable fall that a rate loses, so many octaves above the best one (negative: below)."""
    share = steepness * (LOST_BELOW if octaves < 0.0 else LOST_ABOVE) * octaves * octaves
    return share / (1.0 + share)
