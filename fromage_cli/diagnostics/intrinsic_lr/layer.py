"""One layer against its equilibrium: each number, or the reason why it is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.intrinsic_lr.law import (
    NO_DECAY,
    NO_RATE,
    NO_SIZE,
    SETTLES,
    Law,
    Subject,
    effective_rate,
    equilibrium_norm,
    growth,
    law_of,
)
from fromage_cli.diagnostics.intrinsic_lr.result import Drop, Evidence, LayerEquilibrium
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import Missing, Why
from fromage_cli.theory.equilibrium import Equilibrium
from fromage_cli.theory.relaxation import after_drop, times_until_near

POINTS = 25
"""Points of the course after a drop."""
TIMES = 4.0
"""Relaxation times that it covers."""
NO_DROP = Missing(Why.NOT_ASKED, "no drop of the rate was asked for")
NO_EPOCHS = Missing(Why.NOT_ASKED, "the steps of an epoch were not given")
ONE_CHECKPOINT = Missing(Why.NOT_ASKED, "it takes two checkpoints")
ZERO_GRADIENTS = Missing(Why.ZERO_OR_NOT_FINITE, "the gradients of the batch are zero")


@dataclass(frozen=True)
class Measuring:
    """What every layer of a run is measured from."""

    checkpoints: Sequence[Checkpoint]
    training: Training
    evidence: Evidence
    drop: float | None
    """Factor of the drop that was asked for."""

    def layer(self, name: str, norm: float, observed: tuple[float | Missing, ...]) -> LayerEquilibrium:
        """One layer's numbers; `observed`: its angles between consecutive checkpoints."""
        entry, known, training = self.checkpoints[-1].entries[name], self.evidence.layers.get(name), self.training
        subject = self._subject(name, norm, -1)
        law = law_of(subject)
        end = law.unsettled or self._end(subject)
        sized = 0.0 < norm < math.inf
        ratio = end if isinstance(end, Missing) else norm / end if sized else NO_SIZE
        relaxation: float | Missing = law.unsettled or NO_SIZE
        way: float | Missing = law.unsettled or NO_SIZE
        epochs: float | Missing = law.unsettled or NO_EPOCHS
        if isinstance(law.equilibrium, Equilibrium) and (time := law.equilibrium.relaxation) is not None:
            relaxation = time
            epochs = time / training.steps_per_epoch if training.steps_per_epoch else NO_EPOCHS
            way = ratio if isinstance(ratio, Missing) else times_until_near(ratio, law.equilibrium.power) * time
        step = law.equilibrium if isinstance(law.equilibrium, Missing) else law.equilibrium.rotation
        expected = self._expected(name)
        squared = subject.squared_gradient
        return LayerEquilibrium(
            name=name,
            kind=known.kind if known is not None else None,
            shape=entry.shape,
            parameters=entry.elements,
            learning_rate=NO_RATE if subject.rate is None else subject.rate,
            weight_decay=NO_DECAY if subject.decay is None else subject.decay,
            intrinsic_learning_rate=law.intrinsic,
            effective_learning_rate=effective_rate(subject.training, subject.rate, norm),
            verdict=known.verdict if known is not None else "untested",
            granularity=known.granularity if known is not None else None,
            norm=norm,
            batch_gradient_norm=self.evidence.no_gradients if squared is None else math.sqrt(squared),
            equilibrium_norm=end,
            log_ratio=ratio if isinstance(ratio, Missing) else math.log(ratio),
            growth_per_step=self._growth(subject, law),
            relaxation_steps=relaxation,
            relaxation_epochs=epochs,
            steps_to_equilibrium=way,
            expected_rotation=expected[-1] if expected else step,
            observed_rotation=observed[-1] if observed else ONE_CHECKPOINT,
            drop=self._drop(law, ratio) if sized else NO_SIZE,
            expected_rotations=expected,
            observed_rotations=observed,
        )

    def _subject(self, name: str, norm: float, index: int) -> Subject:
        known = self.evidence.layers.get(name)
        return Subject(
            training=self.training.of_layer(name),
            rate=self.training.rates[name][index],
            decay=self.training.decays[name],
            norm=norm,
            elements=self.checkpoints[-1].entries[name].elements,
            squares=known.squares if known is not None else None,
            squared_gradient=known.squared_gradient if known is not None else None,
            invariant=known is None or known.verdict != "none",
        )

    def _growth(self, subject: Subject, law: Law) -> float | Missing:
        """Growth of ln ‖W‖ where nothing settles."""
        if law.unsettled is None:
            return SETTLES
        found = growth(subject)
        if found is not None:
            return found
        if law.unsettled.code != Why.NO_EQUILIBRIUM:
            return law.unsettled
        return self.evidence.no_gradients if 0.0 < subject.norm < math.inf else NO_SIZE

    def _end(self, subject: Subject) -> float | Missing:
        """‖W*‖ of a layer that settles."""
        end = equilibrium_norm(subject)
        return end or (self.evidence.no_gradients if subject.squares is None else ZERO_GRADIENTS)

    def _expected(self, name: str) -> tuple[float | Missing, ...]:
        """The angles that equilibrium would give, by the mean of what the rates at both ends do."""
        ends = [
            (checkpoint.step, law_of(self._subject(name, 1.0, index)).equilibrium)
            for index, checkpoint in enumerate(self.checkpoints)
        ]
        return tuple(_turn(before, after, start, stop) for (start, before), (stop, after) in pairwise(ends))

    def _drop(self, law: Law, ratio: float | Missing) -> Drop | Missing:
        """The course of the effective rate after the drop that was asked for."""
        if self.drop is None:
            return NO_DROP
        if isinstance(law.equilibrium, Missing):
            return law.equilibrium
        course = after_drop(law.equilibrium, self.drop, 1.0 if isinstance(ratio, Missing) else ratio)
        if course is None:
            return law.unsettled or NO_SIZE
        steps = tuple(TIMES * course.relaxation * index / (POINTS - 1) for index in range(POINTS))
        return Drop(
            at_once=course.at_once,
            final=course.final,
            recovery_steps=course.recovery(),
            from_equilibrium=isinstance(ratio, Missing),
            steps=steps,
            ratios=tuple(course.at(step) for step in steps),
        )


def _turn(
    before: Equilibrium | Missing, after: Equilibrium | Missing, start: int | None, stop: int | None
) -> float | Missing:
    """The angle between two checkpoints under the laws of both."""
    if isinstance(after, Missing):
        return after
    if isinstance(before, Missing):
        return Missing(before.code, "the learning rate of the checkpoint before is not known, or 0")
    if start is None or stop is None:
        return Missing(Why.STEP_UNKNOWN, "the step of a checkpoint is not known")
    return before.rotation_over(stop - start, (before.diffusion + after.diffusion) / 2.0)
