"""From the checkpoints of a run and its settings to an IntrinsicResult."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.pairs import measure_pair, unchanged
from fromage_cli.checkpoints.reading.reductions import measure_norms
from fromage_cli.diagnostics.intrinsic_lr.layer import layer_of
from fromage_cli.diagnostics.intrinsic_lr.measuring import Measuring, Read
from fromage_cli.diagnostics.intrinsic_lr.prediction import NEVER_UPDATED, UNCHANGED
from fromage_cli.diagnostics.intrinsic_lr.result import (
    ACTIVE,
    Evidence,
    Inactive,
    IntrinsicResult,
    LayerEvidence,
    ScheduleRecord,
)
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.errors import ResourceError
from fromage_cli.missing import STEP_UNKNOWN, Interrupted, Missing, Why, found_of, known
from fromage_cli.theory.schedules import Schedule

NO_ANGLE = Missing(Why.ZERO_OR_NOT_FINITE, "the norm is zero or not finite in one of the two checkpoints")


def measure(
    checkpoints: Sequence[Checkpoint],
    names: Sequence[str],
    training: Training,
    evidence: Evidence | Interrupted[Evidence],
    *,
    drop: float | None = None,
    advance: Callable[[float, str], None] = lambda elements, doing: None,
    check: Callable[[], None] = lambda: None,
) -> IntrinsicResult | Interrupted[IntrinsicResult]:
    """Holds every layer of the last checkpoint against its equilibrium, and measures how far it turned before.

    `check` raises ResourceError where a limit is reached. The result then ends after the layers so far, as with
    evidence that was cut short; it is raised where there are none. Raises InputError as reading does.
    """
    (norms,) = measure_norms(checkpoints[-1:], names, advance)
    told, stopped = found_of(evidence)
    measuring = Measuring(checkpoints, training, told)
    read: dict[str, Read] = {}
    for place, name in enumerate(names, 1):
        doing = f"how far layers turned, {place} of {len(names)}"
        advance(0.0, doing)
        try:
            if not isinstance(evidence, Interrupted):  # weights are read whole where the tests have used up the time
                check()
        except ResourceError as limit:
            if not read:
                raise
            stopped = limit
            break
        observed: list[float | Missing] = []
        sizes: list[float] = []
        for before, after in pairwise(checkpoints):
            pair = measure_pair(before, after, name)
            sizes.append(pair.first)
            observed.append(NO_ANGLE if pair.angle is None else pair.angle)
            advance(after.entries[name].elements, doing)
        inactive = told.layers.get(name, LayerEvidence()).inactive
        inactive = inactive if inactive.entries else _inactive(checkpoints[-1], name, training)
        same = not any(map(known, observed)) and unchanged(checkpoints, name)
        untrained = NEVER_UPDATED if name in training.never_updated else UNCHANGED if same else None
        read[name] = Read((*sizes, norms[name]), tuple(observed), inactive, untrained)
    measuring = measuring.with_past(read)
    without_decay = training.rule is not None and training.rule.decay is None
    several = training.rule is None and any(rule.name is not None for rule in training.rules.values())
    result = IntrinsicResult(
        steps=tuple(STEP_UNKNOWN if one.step is None else one.step for one in checkpoints),
        optimizer=training.optimizer,
        momentum=training.momentum,
        betas=training.betas,
        decay=None if without_decay or several else "decoupled" if training.decoupled else "coupled",
        steps_per_epoch=training.steps_per_epoch,
        train_batch_size=told.batch_size,
        tested=any(found.verdict != "untested" for found in told.layers.values()),
        drop_factor=drop,
        layers=tuple(layer_of(measuring, name, found, drop) for name, found in read.items()),
        schedule=_record(measuring),
        schedule_doubt=training.schedule_doubt,
        schedule_gap=training.schedule_gap,
        gradient_trend=measuring.past if isinstance(measuring.past, Missing) else measuring.past.power,
    )
    return result if stopped is None else Interrupted(result, stopped)


def _record(measuring: Measuring) -> ScheduleRecord | None:
    """The schedule of the run; None where none is known."""
    schedule, now = measuring.training.schedule, measuring.steps[-1]
    if schedule is None or schedule == Schedule():
        return None
    return ScheduleRecord(
        shape=schedule.shape,
        warmup_steps=schedule.warmup * schedule.every,
        total_steps=schedule.end,
        source=measuring.training.schedule_source,
        factor=None if now is None else schedule.rate_factor(now),
        constant=measuring.varying is None,
    )


def _inactive(checkpoint: Checkpoint, name: str, training: Training) -> Inactive:
    """Entries whose mean squared gradient is zero beside others where it is not: none of them was ever updated."""
    slot = training.slots.get(name, {})
    squares = slot.get("exp_avg_sq")
    if squares is None or "16" in str(squares.dtype):  # in half precision small squares are rounded to zero
        return ACTIVE
    never = squares == 0
    entries = int(never.sum())
    if not 0 < entries < never.numel() or tuple(never.shape) != checkpoint.entries[name].shape:
        return ACTIVE
    return Inactive(entries, float(checkpoint.tensor(name)[never].double().square().sum()))
