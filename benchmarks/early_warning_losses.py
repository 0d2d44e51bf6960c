"""What the training loss alone says, and when: the gates that the study of early warnings compares `check` with.

A step's loss is that of the batch before the update that makes the next step's weights.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

WINDOW = 128
SIGMA = 6.0
"""The rule of OLMo-core's SkipStepOptimizer, by the loss alone: its window and its factor. It waits for half a window.

https://github.com/allenai/OLMo-core/blob/main/src/olmo_core/optim/skip_step_optimizer.py
"""
SMOOTHED = 20
"""Steps over whose losses a mean is taken."""
BEHIND = 1.1
"""Factor over the healthy twin's loss from which on a run counts as behind it."""


def outlier_step(curve: Sequence[float], start: int = 0) -> int | None:
    """Return the first step from `start` on whose loss is not finite or far above the up to 128 losses before.

    Far is above mean + 6 · deviation.
    """
    for step, loss in enumerate(curve[start:], start):
        if not math.isfinite(loss):
            return step
        before = curve[max(0, step - WINDOW) : step]
        if len(before) >= WINDOW // 2 and loss > fmean(before) + SIGMA * stdev(before):
            return step
    return None


def smoothed(curve: Sequence[float]) -> list[float]:
    """Return the mean of the last 20 losses at each step; not finite from the first loss on that is not."""
    means = [fmean(curve[max(0, step + 1 - SMOOTHED) : step + 1]) for step in range(len(curve))]
    lost = next((step for step, loss in enumerate(curve) if not math.isfinite(loss)), len(curve))
    return means[:lost] + [math.inf] * (len(curve) - lost)


def doubled_step(curve: Sequence[float], start: int = 0) -> int | None:
    """Return the first step from `start` on at which the smoothed loss is twice its least so far, or not finite."""
    least = math.inf
    for step, loss in enumerate(smoothed(curve)):
        least = min(least, loss)
        if step >= start and loss >= 2.0 * least:
            return step
    return None


def behind_step(curve: Sequence[float], twin: Sequence[float]) -> int | None:
    """Return the step from which on the smoothed loss stays more than a tenth above the twin's to the end."""
    behind = [own > BEHIND * other for own, other in zip(smoothed(curve), smoothed(twin), strict=True)]
    if not behind[-1]:
        return None
    return len(behind) - next((place for place, worse in enumerate(reversed(behind)) if not worse), len(behind))
