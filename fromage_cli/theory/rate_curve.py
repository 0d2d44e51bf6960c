"""How the loss after a short run goes with the learning rate: the curve, where it is least, and its noise."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

SOFTNESS = 0.05
"""Part of the best run's fall that counts as a small difference: a rate of e^-1 times the weight per such part."""
CAP = 1.5
"""Part of the best run's fall above the least loss beyond which all rates are alike."""
FINENESS = 16
"""Places in an octave at which the curve is read."""


@dataclass(frozen=True)
class ShortRun:
    """One short training run."""

    learning_rate: float
    """Its peak."""
    steps: int
    seed: int
    loss: float
    """Of rows that no step saw, afterwards; infinite where its loss became infinite or no number."""


@dataclass(frozen=True)
class RateCurve:
    """The part of the achievable fall that is lost at each rate: (loss - least) / (loss before - least), to CAP."""

    octaves: tuple[float, ...]
    """log2 of the rates, rising."""
    lost: tuple[float, ...]

    def at(self, octave: float) -> float:
        """By straight lines between rates, and outside by the line through the last two, within 0 and CAP."""
        place = min(max(bisect_right(self.octaves, octave), 1), len(self.octaves) - 1)
        left, right = self.octaves[place - 1], self.octaves[place]
        share = (octave - left) / (right - left)
        return min(max(self.lost[place - 1] + share * (self.lost[place] - self.lost[place - 1]), 0.0), CAP)


def curve_of(runs: Sequence[ShortRun], start_losses: Sequence[float]) -> RateCurve | None:
    """The curve of the longest runs, continued outside their rates by that of shorter ones.

    `start_losses`: before the runs, by seed. None where no run lowers the loss.
    """
    found: RateCurve | None = None
    for steps in sorted({run.steps for run in runs}):
        single = _single([run for run in runs if run.steps == steps], start_losses)
        if single is None:
            continue
        found = single if found is None else _continued(single, found)
    return found


def _single(runs: Sequence[ShortRun], start_losses: Sequence[float]) -> RateCurve | None:
    """The curve of runs of one length: at each rate the mean fall of the seeds that tried it.

    Where only some did, what these differ from the others at common rates is taken off first.
    """
    falls = {(run.learning_rate, run.seed): start_losses[run.seed] - run.loss for run in runs}
    rates, seeds = sorted({rate for rate, _ in falls}), sorted({seed for _, seed in falls})
    common = [rate for rate in rates if all(math.isfinite(falls.get((rate, seed), -math.inf)) for seed in seeds)]
    shift = dict.fromkeys(seeds, 0.0)
    if common:
        levels = {seed: math.fsum(falls[rate, seed] for rate in common) / len(common) for seed in seeds}
        shift = {seed: level - math.fsum(levels.values()) / len(levels) for seed, level in levels.items()}
    means = []
    for rate in rates:
        at = [falls[rate, seed] - shift[seed] for seed in seeds if (rate, seed) in falls]
        means.append(math.fsum(at) / len(at))
    most = max(means, default=0.0)
    if len(rates) < 2 or not most > 0.0:
        return None
    lost = [min(1.0 - fall / most, CAP) if math.isfinite(fall) else CAP for fall in means]
    return RateCurve(tuple(map(math.log2, rates)), tuple(lost))


def _continued(inner: RateCurve, outer: RateCurve) -> RateCurve:
    """The inner curve, and outside its rates the outer one, moved up or down so that they meet."""
    low, high = inner.octaves[0], inner.octaves[-1]
    below = inner.lost[0] - outer.at(low)
    above = inner.lost[-1] - outer.at(high)
    points = dict(zip(inner.octaves, inner.lost, strict=True))
    for octave, lost in zip(outer.octaves, outer.lost, strict=True):
        if octave < low - 0.5 or octave > high + 0.5:
            points[octave] = min(max(lost + (below if octave < low else above), 0.0), CAP)
    ordered = sorted(points)
    return RateCurve(tuple(ordered), tuple(points[octave] for octave in ordered))


def centre_of(curve: RateCurve) -> float:
    """log2 of the rate around which the curve is least: the mean, weighed by exp(-lost / SOFTNESS)."""
    first, last = curve.octaves[0], curve.octaves[-1]
    count = max(round((last - first) * FINENESS), 1)
    places = [first + (last - first) * (index + 0.5) / count for index in range(count)]
    weights = [math.exp(-curve.at(place) / SOFTNESS) for place in places]
    return math.fsum(weight * place for weight, place in zip(weights, places, strict=True)) / math.fsum(weights)


def gain_of(runs: Sequence[ShortRun], start_losses: Sequence[float]) -> float | None:
    """The part of the loss that the best run took away; None without runs, or where the loss was not above 0."""
    shares = [1.0 - run.loss / start_losses[run.seed] for run in runs if start_losses[run.seed] > 0.0]
    return max((share for share in shares if math.isfinite(share)), default=None)


def noise_of(runs: Sequence[ShortRun], start_losses: Sequence[float]) -> float | None:
    """How far two seeds disagree on the longest runs' losses, as a share of the best fall.

    The standard deviation of their mean; what they differ at all rates alike does not count. None where fewer than two
    rates have runs of both.
    """
    longest = max((run.steps for run in runs), default=0)
    falls = {
        (run.learning_rate, run.seed): start_losses[run.seed] - run.loss
        for run in runs
        if run.steps == longest and math.isfinite(run.loss)
    }
    both = [rate for rate, seed in falls if seed == 0 and (rate, 1) in falls]
    if len(both) < 2:
        return None
    gaps = [falls[rate, 1] - falls[rate, 0] for rate in both]
    mean = math.fsum(gaps) / len(gaps)
    deviation = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)) / 2.0
    most = max(0.5 * (falls[rate, 0] + falls[rate, 1]) for rate in both)
    return deviation / most if most > 0.0 else math.inf


def best_rate(runs: Sequence[ShortRun], start_losses: Sequence[float]) -> float | None:
    """Around which rate the loss after the longest runs is least; None where no run lowers it."""
    curve = curve_of(runs, start_losses)
    return None if curve is None else math.exp2(centre_of(curve))
