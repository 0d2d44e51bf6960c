"""One layer against its equilibrium: each number, or the reason why it is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.intrinsic_lr.law import (
    NO_DECAY,
    NO_RATE,
    Law,
    Subject,
    equilibrium_norm,
    growth,
    law_of,
    rotation_between,
)
from fromage_cli.diagnostics.intrinsic_lr.result import Drop, Evidence, LayerEquilibrium, LayerEvidence
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.effective_rate import NO_NORM, effective_rate
from fromage_cli.theory.relaxation import after_drop, times_until_near

POINTS = 25
"""Points of the course after a drop: enough for a smooth curve."""
TIMES = 4.0
"""Relaxation times that it covers, after which 2 % of the way are left."""
NO_DROP = Missing(Why.NOT_ASKED, "no drop of the rate was asked for")
NO_EPOCHS = Missing(Why.NOT_ASKED, "the steps of an epoch were not given")
ONE_CHECKPOINT = Missing(Why.NOT_ASKED, "it takes two checkpoints")


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
        evidence, entry = self.evidence.layers.get(name, LayerEvidence()), self.checkpoints[-1].entries[name]
        training = self.training.of_layer(name)
        subjects = [
            Subject(
                training=training,
                rate=rate,
                decay=training.decays[name],
                norm=norm,
                elements=entry.elements,
                squares=evidence.squares,
                squared_gradient=evidence.squared_gradient,
                invariant=evidence.verdict != "none",
            )
            for rate in training.rates[name]
        ]
        laws, subject = [law_of(subject) for subject in subjects], subjects[-1]
        law, squared = laws[-1], subject.squared_gradient
        end = law.unsettled or equilibrium_norm(subject)
        sized = 0.0 < norm < math.inf
        ratio = end if isinstance(end, Missing) else norm / end if sized else NO_NORM
        relaxation, epochs, way = self._times(law, ratio)
        effective: float | Missing = NO_RATE
        if subject.rate is not None:
            effective = effective_rate(training.optimizer, subject.rate, norm, training.trust, clipped=training.clipped)
        steps = pairwise(checkpoint.step for checkpoint in self.checkpoints)
        gaps = [None if start is None or stop is None else stop - start for start, stop in steps]
        equilibria = [law.equilibrium for law in laws]
        expected = tuple(rotation_between(*pair, gap) for pair, gap in zip(pairwise(equilibria), gaps, strict=True))
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
            norm=norm,
            batch_gradient_norm=squared if isinstance(squared, Missing) else math.sqrt(squared),
            equilibrium_norm=end,
            log_ratio=ratio if isinstance(ratio, Missing) else math.log(ratio),
            growth_per_step=growth(subject, law),
            relaxation_steps=relaxation,
            relaxation_epochs=epochs,
            steps_to_equilibrium=way,
            expected_rotation=expected[-1] if expected else turn,
            observed_rotation=observed[-1] if observed else ONE_CHECKPOINT,
            drop=self._course(law, ratio) if sized else NO_NORM,
            expected_rotations=expected,
            observed_rotations=observed,
        )

    def _times(self, law: Law, ratio: float | Missing) -> tuple[float | Missing, float | Missing, float | Missing]:
        """How long the norm takes to relax, in steps and in epochs, and the steps until it is near its equilibrium."""
        if isinstance(law.equilibrium, Missing) or law.equilibrium.relaxation is None:
            reason = law.unsettled or NO_NORM
            return reason, reason, reason
        time, steps_per_epoch = law.equilibrium.relaxation, self.training.steps_per_epoch
        epochs = time / steps_per_epoch if steps_per_epoch else NO_EPOCHS
        way = ratio if isinstance(ratio, Missing) else times_until_near(ratio, law.equilibrium.power) * time
        return time, epochs, way

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
