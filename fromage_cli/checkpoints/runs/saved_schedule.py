"""Which schedule a run's learning rate follows, as far as its checkpoints tell: schedulers, trainers' logs, groups.

A scheduler's state is what torch writes, as dictionary or list: base_lrs, last_epoch, _last_lr and its own settings.
Steps of a run of the Hugging Face Trainer stand in trainer_state.json as max_steps, its rates in log_history.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.finding.directory import has_usual_name
from fromage_cli.checkpoints.finding.trainer_files import TRAINER_STATE
from fromage_cli.checkpoints.formats.content import PICKLED_FORMATS, kind_of
from fromage_cli.checkpoints.formats.torch_file import load_file
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.errors import InputError, UnsafeError
from fromage_cli.theory.schedules import MOST_POINTS, Schedule, fit_schedule

FILES = ("scheduler.pt", "scheduler.bin")
"""What the Hugging Face Trainer and accelerate write beside the weights."""
CYCLES = {"T_mult", "step_ratio"}
"""What the schedulers of torch remember that go through cycles: warm restarts and CyclicLR."""
SAMPLES = 200
"""Points of each part of a schedule that is made into a table."""
ALIKE = 1e-6
"""Relative difference up to which two rates are one that was rounded."""


@dataclass(frozen=True)
class SavedSchedule:
    """What the checkpoints of a run tell of the schedule of its rate."""

    schedule: Schedule | None = None
    """None where the rate is constant as far as they tell, or changes as they do not."""
    source: str = ""
    """Where it was found."""
    doubt: str | None = None
    """Why the rate is not constant, as a clause, where its schedule is not known."""
    total: float | None = None
    """Steps of the run, where a trainer wrote them."""
    fitted: bool = False
    """Whether it is a line through rates that were seen: what comes after them is a guess."""
    peak: float | None = None
    """The highest rate that they tell of; None where no optimizer's state does."""


def updates_made(checkpoint: Checkpoint) -> int | None:
    """How many updates led to a checkpoint: its step, else as the optimizer's state counts them."""
    if checkpoint.step is not None or checkpoint.optimizer is None:
        return checkpoint.step
    return checkpoint.optimizer.steps


def saved_schedule(
    checkpoints: Sequence[Checkpoint], *, total: int | None = None, steps_per_epoch: int | None = None
) -> SavedSchedule:
    """The schedule that the checkpoints of a run, first to last, tell of.

    `total` and `steps_per_epoch`: what the user says of the run, for schedulers that do not tell. Raises InputError
    where an optimizer's state cannot be read.
    """
    last = checkpoints[-1]
    groups = [[group.settings for group in one.optimizer.groups] if one.optimizer else [] for one in checkpoints]
    state, source = _scheduler(last)
    trainer = _trainer(last)
    total = total or _whole(trainer.get("max_steps"))
    now = updates_made(last)
    found = _of_state(state, groups[-1]) if state is not None else None
    seen, peak = _rates(checkpoints, groups, trainer)
    if state is not None and found is not None and now is not None:
        every = _steps_of_a_tick(state, now, steps_per_epoch)
        if every is not None:
            scaled = replace(found, every=every) if total is None else replace(found, every=every, total=total / every)
            return SavedSchedule(scaled, source, total=total, peak=peak)
    changing = [rate for _, rate in seen if abs(rate - 1.0) > ALIKE]
    if total is not None and len(seen) > 1 and (fitted := fit_schedule(seen, total)) is not None:
        source = f"{len(seen)} rates up to step {seen[-1][0]:g}"
        return SavedSchedule(fitted if changing else None, source, total=total, fitted=True, peak=peak)
    doubt = None
    if changing:
        doubt = f"the rate was {changing[-1]:.3g} × its peak at one step and something else at others"
    elif state is not None:
        doubt = f"{source} holds the state of a scheduler, which does not say how the rate goes on"
    return SavedSchedule(doubt=doubt, total=total, peak=peak)


def scheduler_rates(checkpoint: Checkpoint) -> list[float]:
    """The rates that the schedulers saved with a checkpoint set last, each for its first group."""
    rates = (state.get("_last_lr") for state, _ in _schedulers(checkpoint))
    firsts = (_number(last[0]) for last in rates if isinstance(last, list | tuple) and last)
    return [rate for rate in firsts if rate is not None]


def rises_again(checkpoint: Checkpoint) -> bool:
    """Whether the scheduler saved with a checkpoint is one that raises the rate again: in cycles, or past its end."""
    state, _ = _scheduler(checkpoint)
    last, done = (None if state is None else _number(state.get(name)) for name in ("T_max", "last_epoch"))
    turned = last is not None and done is not None and done > last
    return state is not None and (turned or bool(CYCLES & set(state)))


def scheduler_ticks(checkpoint: Checkpoint) -> float | None:
    """How often the scheduler saved with a checkpoint was stepped; None without one."""
    state, _ = _scheduler(checkpoint)
    return None if state is None else _number(state.get("last_epoch"))


def _scheduler(checkpoint: Checkpoint) -> tuple[Mapping[str, Any] | None, str]:
    """The first scheduler's state in the weights' file or beside it, and that file's name."""
    return next(_schedulers(checkpoint), (None, ""))


def _schedulers(checkpoint: Checkpoint) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The same of every scheduler."""
    weights = checkpoint.weights or checkpoint.path
    beside = [weights.parent / name for name in FILES] if has_usual_name(weights) else []
    for path in (weights, *beside):
        try:
            if not path.is_file() or kind_of(path) not in PICKLED_FORMATS:
                continue
            root = load_file(path, kind_of(path))
        except (InputError, UnsafeError):
            continue  # the weights were read already, and a file beside them only helps
        if not isinstance(root, Mapping):
            continue
        for value in (root, *(held for name, held in root.items() if "sched" in str(name).lower())):
            for one in value if isinstance(value, list | tuple) else [value]:
                if _is_state(one):
                    yield {str(name): held for name, held in one.items()}, path.name


def _trainer(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What trainer_state.json beside the weights holds; nothing where there is none that can be read."""
    weights = checkpoint.weights or checkpoint.path
    path = weights.parent / TRAINER_STATE
    try:
        return read_object(path) if has_usual_name(weights) and path.is_file() else {}
    except InputError:
        return {}


def _of_state(state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Schedule | None:
    """The schedule of a scheduler's state, counted in its own ticks; None where it does not tell."""
    base, settings = _number(next(iter(state.get("base_lrs", ())), None)), groups[0] if groups else {}
    parts, ends = state.get("_schedulers"), state.get("_milestones")
    if isinstance(parts, list | tuple) and isinstance(ends, list | tuple) and len(parts) == len(ends) + 1 <= SAMPLES:
        return _joined(
            [_of_state(part, groups) if _is_state(part) else None for part in parts], list(map(_number, ends))
        )
    if (last := _whole(state.get("T_max"))) is not None and base:
        return Schedule("cosine", 0, last, (_number(state.get("eta_min")) or 0.0) / base)
    if (last := _whole(state.get("total_iters"))) is not None and "start_factor" in state:
        start, stop = _number(state.get("start_factor")), _number(state.get("end_factor"))
        if start is not None and stop is not None:
            return Schedule("table", points=((0.0, start), (last, stop)))
    phases = state.get("_schedule_phases")
    if _whole(state.get("total_steps")) is not None and isinstance(phases, list | tuple) and len(phases) <= SAMPLES:
        return _one_cycle(phases, settings, state.get("_anneal_func_type") == "linear")
    return None


def _joined(parts: Sequence[Schedule | None], ends: Sequence[float | None]) -> Schedule | None:
    """Schedules one after another, each from the end of the one before, as a table; None where one is not known."""
    points: list[tuple[float, float]] = []
    start = 0.0
    for index, part in enumerate(parts):
        last = None if part is None or part.end is None else start + part.end
        stop = ends[index] if index < len(ends) else last
        if part is None or stop is None or not start < stop:
            return None
        for share in range(SAMPLES + 1):
            at = (stop - start) * min(share / SAMPLES, 1.0 - ALIKE)  # where parts meet the next one's rate holds
            points.append((start + at, part.rate_factor(at)))
        start = stop
    return Schedule("table", points=tuple(points))


def _one_cycle(phases: Sequence[Any], settings: Mapping[str, Any], linear: bool) -> Schedule | None:
    """OneCycleLR by its phases, relative to the highest rate: between two of the group's rates, by half a cosine."""
    peak, begin = _number(settings.get("max_lr")), 0.0
    points: list[tuple[float, float]] = []
    for phase in phases:
        if not isinstance(phase, Mapping):
            return None
        end = _number(phase.get("end_step"))
        low, high = (_number(settings.get(str(phase.get(name)))) for name in ("start_lr", "end_lr"))
        if not peak or end is None or end <= begin or low is None or high is None:
            return None
        for index in range(SAMPLES + 1):
            done = index / SAMPLES
            share = done if linear else 0.5 * (1.0 - math.cos(math.pi * done))
            points.append((begin + (end - begin) * done, (low + (high - low) * share) / peak))
        begin = end
    return Schedule("table", points=tuple(dict(points).items())) if points else None


def _steps_of_a_tick(state: Mapping[str, Any], now: int, steps_per_epoch: int | None) -> float | None:
    """How many updates a tick of the scheduler has: 1, or those of an epoch; None where that is not known."""
    ticks = _number(state.get("last_epoch"))
    if ticks is None:
        return None
    if abs(ticks - now) <= 1:
        return 1.0
    return now / ticks if 0 < 2 * ticks <= now else None if steps_per_epoch is None else float(steps_per_epoch)


def _rates(
    checkpoints: Sequence[Checkpoint], groups: Sequence[Sequence[Mapping[str, Any]]], trainer: Mapping[str, Any]
) -> tuple[list[tuple[float, float]], float | None]:
    """Steps and rates, as shares of the peak, of the first group and as a trainer logged them; and the peak."""
    found: dict[float, float] = {}
    peaks = [_number(group[0].get(name)) for group in groups if group for name in ("initial_lr", "max_lr")]
    history = trainer.get("log_history")
    for entry in history[:MOST_POINTS] if isinstance(history, list) else ():
        if isinstance(entry, Mapping):
            step, rate = _number(entry.get("step")), _number(entry.get("learning_rate"))
            if step is not None and rate is not None:
                found[step] = rate
    for checkpoint, group in zip(checkpoints, groups, strict=True):
        step, rate = updates_made(checkpoint), _number(group[0].get("lr")) if group else None
        if rate is not None:
            found[-1.0 if step is None else step] = rate
    peak = max((value for value in (*peaks, *found.values()) if value is not None), default=0.0)
    return ([(step, rate / peak) for step, rate in sorted(found.items())], peak) if peak else ([], None)


def _is_state(value: Any) -> bool:
    """Whether it is what a scheduler of torch remembers; one made of several has their base rates in its parts."""
    held = value.get("base_lrs", value.get("_schedulers")) if isinstance(value, Mapping) else None
    return isinstance(held, list | tuple)


def _number(value: object) -> float | None:
    """A finite number, 0 or above, as such; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e300:
        return float(value)
    return None


def _whole(value: object) -> int | None:
    """A whole number above 0 as such; None for anything else."""
    found = _number(value)
    return int(found) if found and found == int(found) else None
