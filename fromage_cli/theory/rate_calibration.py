"""From the losses of short training runs to the rate to train at: the constants of a study, and the conclusion.

Source: docs/learning-rate-study.md. All constants are in octaves, log2 of learning rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fromage_cli.theory.rate_curve import RateCurve, ShortRun, centre_of, curve_of, noise_of
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
    bias: float
    """By how many octaves short runs prefer higher rates than the whole run."""
    scale: float
    """Of Student's t around what the short runs say, where seeds agree."""
    studied: bool = True
    """Whether short runs were held against whole ones; else bias and scale are those of a relative."""


FROMAGE = Calibration(typical=0.025, bias=1.1, scale=0.9, studied=False)
SGD = Calibration(typical=0.24, bias=1.1, scale=0.9, studied=False)
MOMENTUM = Calibration(typical=0.062, bias=1.1, scale=0.9)
ADAMW = Calibration(typical=0.0054, bias=0.85, scale=0.5)

USUAL_SCALE, USUAL_FREEDOM = 1.4, 3.0
"""Of Student's t around the typical rate."""
STUDIED = 0.5
"""Of the way from no momentum to .9 in log(1 - momentum), beyond which the study of .9 holds."""
RUNS_FREEDOM = 4.0
"""Of Student's t around what the short runs say."""
NOISE_SCALE = 1.5
"""What is added to it for noise as large as the fall."""
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
        bias=between(SGD.bias, MOMENTUM.bias),
        scale=between(SGD.scale, MOMENTUM.scale),
        studied=share > STUDIED,
    )


@dataclass(frozen=True)
class Conclusion:
    """At which rate to train, as far as short runs and the usual rate tell."""

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
    *,
    new: bool = True,
    parts: bool = False,
) -> Conclusion:
    """Weighs what is usual against what the runs show; no rate is above the highest whose run stayed finite.

    `new`: they began at new weights; `parts`: their batches are smaller than those of the whole run.
    """
    curve = curve_of(runs, start_losses)
    usual = [] if calibration is None else [Belief(math.log2(calibration.typical), USUAL_SCALE, USUAL_FREEDOM)]
    if curve is None:
        return _without_rate(usual, _why_none(runs))
    shown = belief_of(runs, start_losses, curve, calibration or ADAMW, parts)
    highest = max(run.learning_rate for run in runs if math.isfinite(run.loss))
    found = posterior([*usual, shown], math.log2(highest))
    octave, regret = found.least_lost(lost)
    rate, low, high = (math.exp2(each) for each in (octave, *map(found.quantile, _ENDS)))
    doubt = None
    if calibration is None or not calibration.studied:
        doubt = "no study holds short runs of this optimizer against whole runs"
    elif not new:
        doubt = "no study holds short runs from trained weights against whole runs"
    elif parts:
        doubt = "on parts of a batch short runs were off by an octave in the mean of a study; give five whole batches"
    elif regret > RELIABLE:
        doubt = f"the short runs tell it too poorly: {regret:.0%} of the progress may be lost"
    return Conclusion(rate, low, high, regret, doubt is None, doubt or "the short runs tell one rate from another")


_ENDS = (0.5 - 0.5 * INTERVAL, 0.5 + 0.5 * INTERVAL)


def _why_none(runs: Sequence[ShortRun]) -> str:
    """Why the runs show no curve."""
    if not runs:
        return "too few steps were allowed for short runs"
    finite = [run.learning_rate for run in runs if math.isfinite(run.loss)]
    if not finite:
        return "every short run left the numbers"
    if max(finite) < max(run.learning_rate for run in runs):
        return f"no short run lowered the loss of other rows, and above {max(finite):.2g} all left the numbers"
    return "no short run lowered the loss of rows that it did not see"


def _without_rate(usual: Sequence[Belief], reason: str) -> Conclusion:
    """The range of what is usual, where anything is."""
    if not usual:
        return Conclusion(None, None, None, None, False, reason)
    low, high = (math.exp2(posterior(usual).quantile(share)) for share in _ENDS)
    return Conclusion(None, low, high, None, False, reason)


def belief_of(
    runs: Sequence[ShortRun],
    start_losses: Sequence[float],
    curve: RateCurve,
    calibration: Calibration,
    parts: bool = False,
) -> Belief:
    """What the runs say: the centre of their valley less their bias, the less surely the more they are noise."""
    scale = calibration.scale + NOISE_SCALE * noise_of(runs, start_losses)
    if parts:
        return Belief(centre_of(curve) - calibration.bias - PARTS_BIAS, PARTS_SCALE * scale, RUNS_FREEDOM)
    return Belief(centre_of(curve) - calibration.bias, scale, RUNS_FREEDOM)


def lost(octaves: float) -> float:
    """The part of the achievable fall that a rate loses so many octaves above the best one, below it if negative."""
    share = (LOST_BELOW if octaves < 0.0 else LOST_ABOVE) * octaves * octaves
    return share / (1.0 + share)
