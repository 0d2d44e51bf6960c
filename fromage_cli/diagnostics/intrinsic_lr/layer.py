"""One layer against its equilibrium: each number, or the reason why it is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from fromage_cli.theory.relaxation import after_drop

POINTS = 25
"""Points of the course after a drop: enough for a smooth curve."""
TIMES = 4.0
"""Relaxation times that it covers, after which 2 % of the way are left."""
NO_DROP = Missing(Why.NOT_ASKED, "no drop of the rate was asked for")
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

    def layer(self, name: str, norm: float, observed: tuple[float | Missing, ...]) -> LayerEquilibrium:
        """One layer's numbers; `observed`: its angles between consecutive checkpoints."""
        evidence, entry = self.evidence.layers.get(name, LayerEvidence()), self.checkpoints[-1].entries[name]
        training = self.training.of_layer(name)
        subject = Subject(
            training=training,
            rate=training.rates[name][-1],
            decay=training.decays[name],
            norm=norm,
            elements=entry.elements,
            squares=evidence.squares,
            squared_gradient=evidence.squared_gradient,
            invariant=evidence.verdict != "none",
        )
        laws = [law_of(replace(subject, rate=rate)) for rate in training.rates[name]]
        law, squared = laws[-1], subject.squared_gradient
        end = law.unsettled or equilibrium_norm(subject)
        sized = 0.0 < norm < math.inf
        ratio = end if isinstance(end, Missing) else norm / end if sized else NO_NORM
        effective: float | Missing = NO_RATE
        if subject.rate is not None:
            effective = effective_rate(training.optimizer, subject.rate, norm, training.trust, clipped=training.clipped)
        ends = pairwise(law.equilibrium for law in laws)
        expected = tuple(rotation_between(*pair, gap) for pair, gap in zip(ends, self.gaps, strict=True))
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
            relaxation_steps=law.relaxation,
            relaxation_epochs=law.relaxation_epochs(training.steps_per_epoch),
            steps_to_equilibrium=law.steps_until_near(ratio),
            expected_rotation=expected[-1] if expected else turn,
            observed_rotation=observed[-1] if observed else ONE_CHECKPOINT,
            drop=self._course(law, ratio) if sized else NO_NORM,
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
