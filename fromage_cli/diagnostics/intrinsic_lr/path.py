"""How one layer goes along its run: from checkpoint to checkpoint, and from the last one to the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fromage_cli.diagnostics.intrinsic_lr.forecast import VANISHES, Course, explained, motion_of
from fromage_cli.diagnostics.intrinsic_lr.formulas import formulas_of
from fromage_cli.diagnostics.intrinsic_lr.measuring import UNKNOWN_SCHEDULE, Measuring, Read
from fromage_cli.diagnostics.intrinsic_lr.prediction import NO_RATE, Prediction, rotation_between
from fromage_cli.diagnostics.intrinsic_lr.result import Forecast
from fromage_cli.diagnostics.intrinsic_lr.subject import Subject, sized
from fromage_cli.missing import STEP_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.effective_rate import NO_NORM, effective_rate
from fromage_cli.theory.relaxation import Trend

PARTS = 40
"""Of the run, each of which ends with a point of the forecast."""
SURE = 0.5
"""Share of a run from which on a trend of gradients is taken to last to its end."""
NO_PAST = Missing(
    Why.ZERO_OR_NOT_FINITE, "at a checkpoint before, the norm of what now receives gradients is zero or not known"
)
FITTED = Missing(
    Why.NO_MODEL, "the size of the gradients was found from these norms themselves: a model and a batch would tell it"
)


@dataclass(frozen=True)
class Path:
    """How one layer goes along the run: from the first checkpoint to the last, and from there to its end."""

    measuring: Measuring
    courses: tuple[Course, ...] | Missing
    """From each checkpoint, where the units at the last one are scaled to the norm there."""
    norms: tuple[float, ...]
    calibrated: bool
    """Whether the size of its gradients is what makes the last norm of the one before."""
    rate: float | None
    ahead: Course | Missing = UNKNOWN_SCHEDULE
    """From the last checkpoint on, with gradients as large as the way so far lets expect."""
    grows: bool = False
    """Whether gradients matter, and how they change is not known, or not yet surely."""
    fitted: bool = False
    """Whether the last norm is one that the size of its gradients was found from."""

    @classmethod
    def of(cls, measuring: Measuring, name: str, subject: Subject, read: Read) -> "Path":
        """That of a layer with these norms at the checkpoints."""
        schedule, steps, norms = measuring.training.schedule, measuring.steps, read.norms
        if subject.untrained is not None:
            return cls(measuring, subject.untrained, norms, False, subject.rate, subject.untrained)
        if schedule is None:
            return cls(measuring, UNKNOWN_SCHEDULE, norms, False, subject.rate)
        peak = measuring.training.peaks.get(name, subject.rate)
        motion, formulas = motion_of(subject, peak), formulas_of(subject)
        units = formulas.units(subject) if formulas is not None else NO_NORM
        active, track, past = read.active, measuring.track(name, read), measuring.past
        calibrate = isinstance(units, Missing) and units.code == Why.NO_MODEL and len(norms) > 1
        if calibrate and not isinstance(motion, Missing) and peak is not None and None not in steps[-2:]:
            first, last = (step for step in steps[-2:] if step is not None)
            told = explained(motion, schedule, peak, (first, last), active[-2:])
            units = told if isinstance(told, Missing) else ((active[-1] ** 2, told[0]),)
        missing = next((one for one in (motion, units) if isinstance(one, Missing)), None)
        if missing is not None or isinstance(motion, Missing) or isinstance(units, Missing) or peak is None:
            return cls(measuring, missing or NO_RATE, norms, calibrate, subject.rate, missing or NO_RATE)
        ahead = Course(subject, motion, units, peak, schedule, read.inactive.square)
        behind, early, fitted = ahead, track is not None, calibrate
        if track is not None and not isinstance(past, Missing):
            sizes = known(past.sizes(track, past.power)) or []
            behind = ahead.with_gradients(sizes[:-1], past.behind)  # the last norm is then none that it was found from
            ahead = ahead.with_gradients(sizes, past.ahead)
            early = past.steps[-1] < SURE * (known(measuring.run_end) or 0.0)
            fitted = calibrate and not sizes
        courses = tuple(behind.scaled(norm / subject.norm) for norm in active)
        so_far = courses if all(sized(size) for course in courses for size, _ in course.units) else NO_PAST
        return cls(measuring, so_far, norms, calibrate, subject.rate, ahead, early, fitted)

    @property
    def angle(self) -> float | Missing:
        """Radians that the next step turns the layer."""
        if isinstance(self.ahead, Missing):
            return self.ahead
        return NO_RATE if self.rate is None else self.ahead.angle(self.ahead.units, self.rate)

    @property
    def forecast(self) -> Forecast | Missing:
        """From the last checkpoint to the end of the run."""
        course, end, training, now = (
            self.ahead,
            self.measuring.run_end,
            self.measuring.training,
            self.measuring.steps[-1],
        )
        if isinstance(course, Missing) or isinstance(end, Missing) or now is None:
            return course if isinstance(course, Missing) else end if isinstance(end, Missing) else STEP_UNKNOWN
        places = (
            now,
            *dict.fromkeys(step for part in range(1, PARTS + 1) if (step := round(end * part / PARTS)) > now),
        )
        points = course.points(places)
        growing = replace(course, trend=Trend(1.0, now)).points(places) if self.grows and now else []
        if not all(math.isfinite(point.norm) and math.isfinite(point.angle) for point in (*points, *growing)):
            return VANISHES
        rates = (
            effective_rate(training.optimizer, point.rate, point.active_norm, training.trust, clipped=training.clipped)
            for point in points
        )
        return Forecast(
            steps=tuple(round(point.step) for point in points),
            norms=tuple(point.norm for point in points),
            effective_learning_rates=tuple(map(known, rates)),
            angles_per_step=tuple(point.angle for point in points),
            norms_if_growing=tuple(point.norm for point in growing),
            angles_if_growing=tuple(point.angle for point in growing),
        )

    @property
    def expected_norms(self) -> tuple[float | Missing, ...]:
        """At every checkpoint, from the first one on."""
        steps = [step for step in self.measuring.steps if step is not None]
        if len(self.norms) < 2:
            return ()
        if isinstance(self.courses, Missing) or self.fitted or len(steps) < len(self.norms):
            reason = self.courses if isinstance(self.courses, Missing) else FITTED if self.fitted else STEP_UNKNOWN
            return (reason,) * len(self.norms)
        return tuple(point.norm if math.isfinite(point.norm) else VANISHES for point in self.courses[0].points(steps))

    def rotations(self, predictions: Sequence[Prediction], gaps: Sequence[int | None]) -> tuple[float | Missing, ...]:
        """The angles between consecutive checkpoints by free diffusion, along the schedule where there is one.

        At a constant rate, by the equilibrium at both ends.
        """
        schedule, steps = self.measuring.training.schedule, self.measuring.steps
        constant = schedule is not None and all(schedule.constant_from(step or 0) for step in steps)
        ends = pairwise(one.equilibrium for one in predictions)
        if constant:
            return tuple(rotation_between(*pair, gap) for pair, gap in zip(ends, gaps, strict=True))
        if isinstance(self.courses, Missing):
            return (self.courses,) * (len(steps) - 1)
        spans = zip(self.courses[:-1], pairwise(steps), strict=True)
        return tuple(
            STEP_UNKNOWN if first is None or last is None else course.rotation(first, last)
            for course, (first, last) in spans
        )
