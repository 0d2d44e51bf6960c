"""The learning rate along a run as each source tells it: saved groups, schedulers, logs, the folder's name."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.runs.saved_schedule import rises_again, saved_schedule, scheduler_rate, updates_made
from fromage_cli.checkpoints.runs.trainer_logs import FOLDERS, logged_rates
from fromage_cli.theory.schedules import Schedule

SAME = 0.02
"""Relative difference up to which two rates of one step are the same."""
RISE = 1.1
"""Factor from which on a rate that had fallen is said to rise again."""
JUMP = 2.0
"""Factor from which on a rate that was constant is said to jump."""
PIECES = 1000
"""Into which the steps between two checkpoints are cut at most."""
_IN_NAME = re.compile(
    r"(?:^|[-_.,])(?:lr|learning[-_]?rate)[-_=]?([0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)", re.IGNORECASE
)

Source = Literal["checkpoint", "scheduler", "log", "folder"]


@dataclass(frozen=True)
class RateBreak:
    """Where a rate does not go on as it should, or two sources of it disagree."""

    kind: Literal["rises", "jumps", "schedule", "disagree"]
    """It rises after it had fallen; jumps up from a constant; is not what the schedule says; sources disagree."""
    step: float
    rate: float
    """What is found there."""
    expected: float
    """What the other source, the schedule, or the step before says."""
    before: float
    """The step of `expected`."""
    source: Source
    """Which source `expected` is from."""


@dataclass(frozen=True)
class RateHistory:
    """What is told of a run's rate: that of the optimizer's first group."""

    steps: tuple[float | None, ...]
    """Updates that led to each checkpoint."""
    saved: tuple[float | None, ...]
    """The rate in each checkpoint's optimizer state."""
    logged: tuple[tuple[float, float], ...]
    """Steps and rates of the trainer's log."""
    schedule: Schedule | None
    """Of the run, relative to the peak; None where nothing tells one."""
    peak: float | None
    breaks: tuple[RateBreak, ...]

    def last(self, index: int) -> float | None:
        """The rate of the update that led to a checkpoint, where the run's schedule tells it; the saved one is next."""
        step, saved = self.steps[index], self.saved[index]
        if self.schedule is None or self.peak is None or step is None or saved is None or step < 1.0:
            return None
        near = _near(self.schedule, step, self.peak)
        return near[0] if _within(saved, near) else None

    def summed(self, index: int) -> float | None:
        """The sum of the rates of all updates up to a checkpoint: by the schedule, else between the rates known.

        Before the first known rate that one holds. None where fewer than two are known, or the steps are not.
        """
        stop = self.steps[index]
        if stop is None:
            return None
        if self.schedule is not None and self.peak is not None and not self.breaks:
            return self.peak * math.fsum(steps * factor for _, steps, factor in self.schedule.pieces(0.0, stop))
        points = _points(self.steps, self.saved, self.logged)
        path = [(step, rate) for step, rate in points if step <= stop]
        if len(path) < 2:
            return None
        trapezoids = [0.5 * (low + high) * (end - start) for (start, low), (end, high) in pairwise(path)]
        return path[0][0] * path[0][1] + math.fsum(trapezoids) + (stop - path[-1][0]) * path[-1][1]

    def between(self, index: int, updates: float, *, scale: float) -> tuple[list[float], bool]:
        """Upper bounds of the rates since the checkpoint before an index, for equal parts of the updates between.

        `scale`: the rate of a tensor's group over that of the first. The flag says whether a schedule or a log told
        them; else it is the larger of the two ends.
        """
        start, stop = self.steps[index - 1], self.steps[index]
        ends = [rate for rate in self.saved[index - 1 : index + 1] if rate is not None]
        if start is None or stop is None or not ends:
            return [max(ends, default=0.0) * scale], False
        if self.schedule is not None and self.peak is not None and not self.breaks:
            count = max(min(round(updates), PIECES), 1)
            edges = [start + (stop - start) * part / count for part in range(count + 1)]
            factors = [self.schedule.rate_factor(edge) * self.peak * scale for edge in edges]
            return [(1.0 + SAME) * max(pair) for pair in pairwise(factors)], True
        within = [rate for step, rate in self.logged if start <= step <= stop]
        return [max(*ends, *within) * scale], len(within) > 1


def rate_history(checkpoints: Sequence[Checkpoint]) -> RateHistory:
    """What the checkpoints of a run, first to last, tell of its rate. Raises InputError as reading a state does."""
    last = checkpoints[-1]
    steps = tuple(None if (step := updates_made(one)) is None else float(step) for one in checkpoints)
    saved = tuple(_first_rate(one) for one in checkpoints)
    logged = logged_rates(last.weights or last.path)
    told = saved_schedule(checkpoints)
    unscheduled, unlogged = schedule_breaks(checkpoints, steps, saved), log_breaks(steps, saved, logged)
    breaks = (
        *scheduler_breaks(checkpoints, steps),
        *unlogged,
        *unscheduled,
        *([] if unscheduled or unlogged or rises_again(last) else rises(steps, saved, logged)),
        *folder_breaks(last, steps[-1], [rate for rate in (*saved, told.peak, *logged.values()) if rate]),
    )
    return RateHistory(steps, saved, tuple(logged.items()), told.schedule, told.peak, breaks)


def _first_rate(checkpoint: Checkpoint) -> float | None:
    """The rate of the first group."""
    groups = checkpoint.optimizer.groups if checkpoint.optimizer is not None else ()
    rate = groups[0].settings.get("lr") if groups else None
    return float(rate) if isinstance(rate, int | float) else None


def scheduler_breaks(checkpoints: Sequence[Checkpoint], steps: Sequence[float | None]) -> list[RateBreak]:
    """Checkpoints whose scheduler set last what no group of the optimizer has."""
    breaks = []
    for checkpoint, step in zip(checkpoints, steps, strict=True):
        expected, first = scheduler_rate(checkpoint), _first_rate(checkpoint)
        if expected is None or first is None or checkpoint.optimizer is None:
            continue
        rates = [group.settings.get("lr") for group in checkpoint.optimizer.groups]
        if not any(isinstance(rate, int | float) and _same(rate, expected) for rate in rates):
            at = -1.0 if step is None else step
            breaks.append(RateBreak("disagree", at, first, expected, at, "scheduler"))
    return breaks


def log_breaks(
    steps: Sequence[float | None], saved: Sequence[float | None], logged: dict[float, float]
) -> list[RateBreak]:
    """Checkpoints whose rate is outside what the log has just before and after them."""
    breaks = []
    for step, rate in zip(steps, saved, strict=True):
        if step is None or rate is None:
            continue
        near = [*[one for one in logged if one <= step][-2:], *[one for one in logged if one > step][:2]]
        rates = [logged[one] for one in near]
        bracketed = near and near[0] <= step <= near[-1]
        if bracketed and not _within(rate, [min(rates) / RISE, max(rates) * RISE]):
            closest = min(near, key=lambda one: abs(one - step))
            breaks.append(RateBreak("disagree", step, rate, logged[closest], closest, "log"))
    return breaks


def schedule_breaks(
    checkpoints: Sequence[Checkpoint], steps: Sequence[float | None], saved: Sequence[float | None]
) -> list[RateBreak]:
    """Checkpoints whose rate is not what the schedule saved with the one before says of their step."""
    breaks = []
    for index in range(1, len(checkpoints)):
        step, rate, start = steps[index], saved[index], steps[index - 1]
        told = saved_schedule(checkpoints[index - 1 : index]) if step is not None and rate is not None else None
        if told is None or told.schedule is None or not told.peak or step is None or rate is None or start is None:
            continue
        own, now = (_near(told.schedule, place, told.peak) for place in (start, step))
        held = saved[index - 1]
        if held is not None and _within(held, own) and not _within(rate, now):
            breaks.append(RateBreak("schedule", step, rate, now[1], start, "scheduler"))
    return breaks


def rises(steps: Sequence[float | None], saved: Sequence[float | None], logged: dict[float, float]) -> list[RateBreak]:
    """The first place where the rate rises after it had fallen, or jumps up from a constant."""
    path = _points(steps, saved, logged.items())
    peak, lowest = 0.0, (0.0, 0.0)  # the lowest since the peak
    for index, (step, rate) in enumerate(path):
        source: Source = "log" if step in logged else "checkpoint"
        if lowest[1] < peak / RISE and rate > RISE * lowest[1]:
            return [RateBreak("rises", step, rate, lowest[1], lowest[0], source)]
        before, held = path[max(index - 1, 0)]
        if index > 1 and path[index - 2][1] == held > 0.0 and rate > JUMP * held:
            return [RateBreak("jumps", step, rate, held, before, source)]
        if rate >= peak:
            peak, lowest = rate, (step, rate)
        elif rate <= lowest[1]:
            lowest = (step, rate)
    return []


def folder_breaks(checkpoint: Checkpoint, step: float | None, rates: Sequence[float]) -> list[RateBreak]:
    """The rate that the name of the run's folder has, where no source has it."""
    path = (checkpoint.weights or checkpoint.path).absolute()
    for name in [path.stem, *(folder.name for folder in list(path.parents)[:FOLDERS])]:
        if (found := _IN_NAME.search(name)) is not None:
            told = float(found.group(1))
            if rates and told > 0.0 and not any(_same(rate, told) for rate in rates):
                at = -1.0 if step is None else step
                return [RateBreak("disagree", at, max(rates), told, at, "folder")]
            break
    return []


def _points(
    steps: Sequence[float | None], saved: Sequence[float | None], logged: Iterable[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Steps with their rates: as the log has them, else the checkpoints."""
    points = {step: rate for step, rate in zip(steps, saved, strict=True) if step is not None and rate is not None}
    return sorted((points | dict(logged)).items())


def _near(schedule: Schedule, step: float, peak: float) -> tuple[float, float, float]:
    """The rates just before a step, at it and just after: files are written before or after a scheduler's step."""
    before, at, after = (schedule.rate_factor(step + shift * schedule.every) * peak for shift in (-1.0, 0.0, 1.0))
    return before, at, after


def _within(rate: float, others: Sequence[float]) -> bool:
    """Whether a rate is between others, or the same as one of them."""
    return (1.0 - SAME) * min(others) <= rate <= (1.0 + SAME) * max(others)


def _same(rate: float, other: float) -> bool:
    """Whether two rates of one step are the same."""
    return abs(rate - other) <= SAME * max(abs(rate), abs(other))
