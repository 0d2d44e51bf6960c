"""One layer against its equilibrium: each number, or the reason why it is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.saved_schedule import updates_made
from fromage_cli.diagnostics.intrinsic_lr.forecast import Course, calibrated, motion_of, units_of
from fromage_cli.diagnostics.intrinsic_lr.law import (
    NO_DECAY,
    NO_RATE,
    SCHEDULE,
    Law,
    Subject,
    equilibrium_norm,
    growth,
    law_of,
    rotation_between,
)
from fromage_cli.diagnostics.intrinsic_lr.result import (
    ACTIVE,
    Drop,
    Evidence,
    Forecast,
    Inactive,
    LayerEquilibrium,
    LayerEvidence,
)
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import STEP_UNKNOWN, Missing, Why, known
from fromage_cli.optimizers.effective_rate import NO_NORM, effective_rate
from fromage_cli.theory.relaxation import after_drop

POINTS = 25
"""Points of the course after a drop: enough for a smooth curve."""
TIMES = 4.0
"""Relaxation times that it covers, after which 2 % of the way are left."""
NO_DROP = Missing(Why.NOT_ASKED, "no drop of the rate was asked for")
PARTS = 40
"""Of the run, each of which ends with a point of the forecast."""
FITTED = Missing(
    Why.NO_MODEL, "the size of the gradients was found from these norms themselves: a model and a batch would tell it"
)
NO_END = Missing(Why.NOT_ASKED, "the steps of the whole run are not known: --total-steps")
RUN_ENDED = Missing(Why.NOT_DEFINED, "the run ends with the last checkpoint")
UNKNOWN_SCHEDULE = Missing(
    Why.SCHEDULE, "the learning rate changes, and how it goes on is not known: --schedule and --total-steps"
)
ONE_CHECKPOINT = Missing(Why.NOT_ASKED, "it takes two checkpoints")


@dataclass(frozen=True)
class Measuring:
    """What every layer of a run is measured from."""

    checkpoints: Sequence[Checkpoint]
    training: Training
    evidence: Evidence
    drop: float | None
    """Factor of the drop that was asked for."""

    @property
    def gaps(self) -> list[int | None]:
        """Steps between consecutive checkpoints."""
        steps = pairwise(checkpoint.step for checkpoint in self.checkpoints)
        return [None if start is None or stop is None else stop - start for start, stop in steps]

    @property
    def steps(self) -> list[int | None]:
        """Updates made before each checkpoint."""
        return [updates_made(checkpoint) for checkpoint in self.checkpoints]

    @property
    def varying(self) -> Missing | None:
        """Why the rate is not constant from the last checkpoint on; None where it is."""
        schedule, now = self.training.schedule, self.steps[-1]
        if schedule is None:
            return UNKNOWN_SCHEDULE
        return None if schedule.constant_from(math.inf if now is None else now) else SCHEDULE

    def layer(
        self, name: str, norms: tuple[float, ...], observed: tuple[float | Missing, ...], inactive: Inactive = ACTIVE
    ) -> LayerEquilibrium:
        """One layer's numbers; `norms`: at every checkpoint, `observed`: its angles between consecutive ones."""
        evidence, entry = self.evidence.layers.get(name, LayerEvidence()), self.checkpoints[-1].entries[name]
        training = self.training.of_layer(name)
        norm = inactive.active(norms[-1])
        subject = Subject(
            training=training,
            rate=training.rates[name][-1],
            decay=training.decays[name],
            norm=norm,
            elements=entry.elements - inactive.entries,
            sizes=evidence.sizes,
            squares=evidence.squares,
            squared_gradient=evidence.squared_gradient,
            invariant=evidence.verdict != "none",
        )
        laws = [law_of(replace(subject, rate=rate)) for rate in training.rates[name]]
        law, squared, varying = laws[-1], subject.squared_gradient, self.varying
        end = law.unsettled or equilibrium_norm(subject)
        sized = 0.0 < norm < math.inf
        ratio = end if isinstance(end, Missing) else norm / end if sized else NO_NORM
        void = varying if law.unsettled is None or law.unsettled.code == Why.NOTHING_MOVES else None
        effective: float | Missing = NO_RATE
        if subject.rate is not None:
            effective = effective_rate(training.optimizer, subject.rate, norm, training.trust, clipped=training.clipped)
        path = Path.of(self, name, subject, norms, inactive)
        expected = path.rotations(laws, self.gaps)
        turn = law.equilibrium if isinstance(law.equilibrium, Missing) else law.equilibrium.rotation
        return LayerEquilibrium(
            name=name,
            kind=evidence.kind,
            shape=entry.shape,
            parameters=entry.elements,
            learning_rate=NO_RATE if subject.rate is None else subject.rate,
            weight_decay=NO_DECAY if subject.decay is None else subject.decay,
            intrinsic_learning_rate=law.intrinsic,
            effective_learning_rate=effective,
            verdict=evidence.verdict,
            granularity=evidence.granularity,
            norm=norms[-1],
            batch_gradient_norm=squared if isinstance(squared, Missing) else math.sqrt(squared),
            equilibrium_norm=void or end,
            log_ratio=void or (ratio if isinstance(ratio, Missing) else math.log(ratio)),
            growth_per_step=growth(subject, law),
            relaxation_steps=law.relaxation,
            relaxation_epochs=law.relaxation_epochs(training.steps_per_epoch),
            steps_to_equilibrium=void or law.steps_until_near(ratio),
            expected_rotation=expected[-1] if expected else void or turn,
            observed_rotation=observed[-1] if observed else ONE_CHECKPOINT,
            drop=self._course(law, ratio) if sized else NO_NORM,
            angle_per_step=path.angle,
            forecast=path.forecast,
            norms=norms,
            expected_norms=path.expected_norms,
            calibrated=path.calibrated and known(path.angle) is not None,
            inactive=inactive.entries,
            expected_rotations=expected,
            observed_rotations=observed,
        )

    def _course(self, law: Law, ratio: float | Missing) -> Drop | Missing:
        """The course of the effective rate after the drop that was asked for."""
        if self.drop is None:
            return NO_DROP
        if isinstance(law.equilibrium, Missing):
            return law.equilibrium
        course = after_drop(law.equilibrium, self.drop, 1.0 if isinstance(ratio, Missing) else ratio)
        if course is None:
            return law.unsettled or NO_NORM
        steps = tuple(TIMES * course.relaxation * index / (POINTS - 1) for index in range(POINTS))
        return Drop(
            at_once=course.at_once,
            final=course.final,
            recovery_steps=course.recovery(),
            from_equilibrium=isinstance(ratio, Missing),
            steps=steps,
            ratios=tuple(course.at(step) for step in steps),
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

    @classmethod
    def of(
        cls, measuring: Measuring, name: str, subject: Subject, norms: tuple[float, ...], inactive: Inactive
    ) -> "Path":
        """That of a layer with these norms at the checkpoints."""
        schedule, steps = measuring.training.schedule, measuring.steps
        if schedule is None:
            return cls(measuring, UNKNOWN_SCHEDULE, norms, False, subject.rate)
        peak = measuring.training.peaks.get(name, subject.rate)
        motion, units = motion_of(subject, peak), units_of(subject)
        active = [inactive.active(norm) for norm in norms]
        calibrate = isinstance(units, Missing) and units.code == Why.NO_MODEL and len(norms) > 1
        if calibrate and not isinstance(motion, Missing) and peak is not None and None not in steps[-2:]:
            first, last = (step for step in steps[-2:] if step is not None)
            units = calibrated(motion, schedule, peak, (first, last), (active[-2], active[-1]))
        missing = next((one for one in (motion, units) if isinstance(one, Missing)), None)
        if missing is not None or isinstance(motion, Missing) or isinstance(units, Missing) or peak is None:
            return cls(measuring, missing or NO_RATE, norms, calibrate, subject.rate)
        shares = [(norm / subject.norm) ** 2 for norm in active]
        courses = tuple(
            Course(
                subject,
                motion,
                tuple((size * share, source) for size, source in units),
                peak,
                schedule,
                inactive.square,
            )
            for share in shares
        )
        return cls(measuring, courses, norms, calibrate, subject.rate)

    @property
    def angle(self) -> float | Missing:
        """Radians that the next step turns the layer."""
        if isinstance(self.courses, Missing):
            return self.courses
        return NO_RATE if self.rate is None else self.courses[-1].angle(self.courses[-1].units, self.rate)

    @property
    def forecast(self) -> Forecast | Missing:
        """From the last checkpoint to the end of the run."""
        if isinstance(self.courses, Missing):
            return self.courses
        course, training, now = self.courses[-1], self.measuring.training, self.measuring.steps[-1]
        end = course.schedule.end
        if now is None or end is None:
            return STEP_UNKNOWN if now is None else NO_END
        ahead = [step for part in range(1, PARTS + 1) if (step := round(end * part / PARTS)) > now]
        if not ahead:
            return RUN_ENDED
        points = course.points((now, *dict.fromkeys(ahead)))
        rates = (
            effective_rate(training.optimizer, point.rate, point.active_norm, training.trust, clipped=training.clipped)
            for point in points
        )
        return Forecast(
            steps=tuple(round(point.step) for point in points),
            norms=tuple(point.norm for point in points),
            effective_learning_rates=tuple(map(known, rates)),
            angles_per_step=tuple(point.angle for point in points),
        )

    @property
    def expected_norms(self) -> tuple[float | Missing, ...]:
        """At every checkpoint, from the first one on."""
        steps = [step for step in self.measuring.steps if step is not None]
        if len(self.norms) < 2:
            return ()
        if isinstance(self.courses, Missing) or self.calibrated or len(steps) < len(self.norms):
            reason = self.courses if isinstance(self.courses, Missing) else FITTED if self.calibrated else STEP_UNKNOWN
            return (reason,) * len(self.norms)
        return tuple(point.norm for point in self.courses[0].points(steps))

    def rotations(self, laws: Sequence[Law], gaps: Sequence[int | None]) -> tuple[float | Missing, ...]:
        """The angles between consecutive checkpoints, at most: by free diffusion along the schedule where there is one.

        At a constant rate, by the laws of the equilibrium at both ends.
        """
        schedule, steps = self.measuring.training.schedule, self.measuring.steps
        constant = schedule is not None and all(schedule.constant_from(step or 0) for step in steps)
        ends = pairwise(law.equilibrium for law in laws)
        if constant:
            return tuple(rotation_between(*pair, gap) for pair, gap in zip(ends, gaps, strict=True))
        if isinstance(self.courses, Missing):
            return (self.courses,) * (len(steps) - 1)
        spans = zip(self.courses[:-1], pairwise(steps), strict=True)
        return tuple(
            STEP_UNKNOWN if first is None or last is None else course.rotation(first, last)
            for course, (first, last) in spans
        )
