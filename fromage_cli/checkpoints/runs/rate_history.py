"""The learning rate along a run as each source tells it: saved groups, schedulers, logs, the folder's name."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.runs.saved_schedule import (
    rises_again,
    saved_schedule,
    scheduler_rates,
    scheduler_ticks,
    updates_made,
)
from fromage_cli.checkpoints.runs.trainer_logs import FOLDERS, logged_rates
from fromage_cli.theory.schedules import Schedule

SAME = 0.02
"""Relative difference up to which two rates of one step are the same."""
RISE = 1.1
"""Factor from which on a rate that had fallen is said to rise again."""
NOTHING = 1e-6
"""Share of the peak that is no rate."""
JUMP = 2.0
"""Factor from which on a rate that was constant is said to jump."""
LONGEST_GAP = 0.25
"""Share of the steps between two checkpoints that a log may leave out and still tell the highest rate."""
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
    scheduled: bool = False
    """Whether the scheduler was stepped as often as the optimizer, so that it means this."""


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
    initial: float | None = None
    """What a scheduler noted as the rate that the run began with."""
    doubted: bool = False
    """Whether there is a schedule that is not known."""

    def _holds_until(self, step: float) -> bool:
        """Whether the schedule is known, and says the rate up to a step: beyond its end torch's schedulers differ."""
        sound = all(one.scheduled or one.source == "folder" for one in self.breaks)
        known = self.schedule is not None and self.peak is not None and sound
        return known and (self.schedule is None or self.schedule.end is None or step <= self.schedule.end)

    def _scheduled(self, step: float) -> float:
        """The rate of the schedule at a step."""
        return 0.0 if self.schedule is None or self.peak is None else self.schedule.rate_factor(step) * self.peak

    def last(self, index: int) -> float | None:
        """The rate of the update that led to a checkpoint, where the run's schedule tells it; the saved one is next."""
        step, saved = self.steps[index], self.saved[index]
        if step is None or saved is None or step < 1.0 or not self._holds_until(step):
            return None
        near = [self._scheduled(place) for place in (step - 1.0, step, step + 1.0)]
        return near[0] if _within(saved, near) else None

    def summed(self, index: int) -> tuple[float | None, bool]:
        """The sum of the rates of all updates up to a checkpoint: by the schedule, else between the rates known.

        Before the first known rate that one holds. The flag says whether more than one rate is known; a single one is
        taken to be constant, unless it is not what the run began with. None where nothing tells.
        """
        stop, saved = self.steps[index], self.saved[index]
        if stop is None:
            return None, False
        if self.schedule is not None and self.peak is not None and self._holds_until(stop):
            return self.peak * math.fsum(steps * factor for _, steps, factor in self.schedule.pieces(0.0, stop)), True
        points = _points(self.steps, self.saved, self.logged)
        path = [(step, rate) for step, rate in points if step <= stop]
        if len(path) < 2:
            varied = saved is None or (self.initial is not None and not _same(saved, self.initial))
            return None if varied or saved is None else saved * stop, False
        trapezoids = [0.5 * (low + high) * (end - start) for (start, low), (end, high) in pairwise(path)]
        return path[0][0] * path[0][1] + math.fsum(trapezoids) + (stop - path[-1][0]) * path[-1][1], True

    def between(
        self, index: int, updates: float, ends: Sequence[float | None], scale: float | None
    ) -> tuple[list[float], bool]:
        """Upper bounds of a tensor's rates since the checkpoint before, for equal parts of the updates between.

        `ends`: its rate there and here; `scale`: over that of the first group, None where that tells nothing of it.
        The flag says whether a schedule or a log told them; else it is the larger of the two ends.
        """
        start, stop = self.steps[index - 1], self.steps[index]
        known = [rate for rate in ends if rate is not None]
        if start is None or stop is None or not known:
            return [max(known, default=0.0)], False
        if scale is not None and self._holds_until(stop):
            count = max(min(round(updates), PIECES), 1)
            edges = [start + (stop - start) * part / count for part in range(count + 1)]
            whole = [(math.floor(low), math.ceil(high)) for low, high in pairwise(edges)]  # rates change between steps
            return [(1.0 + SAME) * scale * max(map(self._scheduled, pair)) for pair in whole], True
        within = [(step, rate * scale) for step, rate in self.logged if scale is not None and start <= step <= stop]
        marks = [start, *(step for step, _ in within), stop]
        dense = max(high - low for low, high in pairwise(marks)) <= LONGEST_GAP * (stop - start)
        constant = len(known) > 1 and _same(known[0], known[-1]) and not within and not self.doubted
        return [max([*known, *(rate for _, rate in within)])], dense or constant


def rate_history(checkpoints: Sequence[Checkpoint]) -> RateHistory:
    """What the checkpoints of a run, first to last, tell of its rate. Raises InputError as reading a state does."""
    last = checkpoints[-1]
    steps = tuple(None if (step := updates_made(one)) is None else float(step) for one in checkpoints)
    saved = tuple(_first_rate(one) for one in checkpoints)
    logged = logged_rates(last.weights or last.path)
    told = saved_schedule(checkpoints)
    unscheduled, unlogged = schedule_breaks(checkpoints, steps, saved), log_breaks(steps, saved, logged)
    risen = [] if unscheduled or unlogged or rises_again(last) else rises(steps, saved, logged)
    continues = steps[-1] is not None and scheduler_ticks(last) == steps[-1]
    breaks = (
        *scheduler_breaks(checkpoints, steps),
        *unlogged,
        *unscheduled,
        *(replace(one, scheduled=continues) for one in risen),
        *folder_breaks(last, steps[-1], [rate for rate in (*saved, told.peak, *logged.values()) if rate]),
    )
    initial = _first_rate(last, "initial_lr")
    doubted = told.doubt is not None
    return RateHistory(steps, saved, tuple(logged.items()), told.schedule, told.peak, breaks, initial, doubted)


def _first_rate(checkpoint: Checkpoint, name: str = "lr") -> float | None:
    """The rate of the first group, or another of its settings."""
    groups = checkpoint.optimizer.groups if checkpoint.optimizer is not None else ()
    rate = groups[0].settings.get(name) if groups else None
    return float(rate) if isinstance(rate, int | float) else None


def scheduler_breaks(checkpoints: Sequence[Checkpoint], steps: Sequence[float | None]) -> list[RateBreak]:
    """Checkpoints whose scheduler set last what no group of the optimizer has."""
    breaks = []
    for checkpoint, step in zip(checkpoints, steps, strict=True):
        told, first = scheduler_rates(checkpoint), _first_rate(checkpoint)
        if not told or first is None or checkpoint.optimizer is None:
            continue
        rates = [group.settings.get("lr") for group in checkpoint.optimizer.groups]
        pairs = [(rate, expected) for rate in rates for expected in told if isinstance(rate, int | float)]
        if not any(_same(*pair) for pair in pairs):
            at = -1.0 if step is None else step
            breaks.append(RateBreak("disagree", at, first, told[0], at, "scheduler"))
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
        change = max(rates) - min(rates) if rates else 0.0  # a log may tell the rate of the update before
        if bracketed and not _within(rate, [min(rates) / RISE - change, max(rates) * RISE + change]):
            closest = min(near, key=lambda one: abs(one - step))
            breaks.append(RateBreak("disagree", step, rate, logged[closest], closest, "log"))
    return breaks


def schedule_breaks(
    checkpoints: Sequence[Checkpoint], steps: Sequence[float | None], saved: Sequence[float | None]
) -> list[RateBreak]:
    """Checkpoints whose rate is not what the schedule saved with the one before says of their step."""
    breaks = []
    for index in range(1, len(checkpoints)):
        start, step, held, rate = steps[index - 1], steps[index], saved[index - 1], saved[index]
        if start is None or step is None or held is None or rate is None:
            continue
        told = saved_schedule(checkpoints[index - 1 : index])
        schedule, peak = told.schedule, told.peak
        if schedule is None or not peak or told.fitted or (schedule.end is not None and step > schedule.end):
            continue
        own, now = (_near(schedule, place, peak) for place in (start, step))
        if _within(held, own) and not _within(rate, now, peak):
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


def _within(rate: float, others: Sequence[float], peak: float = 0.0) -> bool:
    """Whether a rate is between others, or the same as one of them but for a millionth of the peak."""
    least, most = (1.0 - SAME) * min(others), (1.0 + SAME) * max(others)
    return least - NOTHING * peak <= rate <= most + NOTHING * peak


def _same(rate: float, other: float) -> bool:
    """Whether two rates of one step are the same."""
    return abs(rate - other) <= SAME * max(abs(rate), abs(other))
