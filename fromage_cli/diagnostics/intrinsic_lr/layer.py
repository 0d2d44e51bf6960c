"""One layer against its equilibrium, and why numbers are null where they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.diagnostics.intrinsic_lr.law import (
    NORM,
    RATE_POWERS,
    RATES,
    WITHOUT_DECAY,
    Law,
    Subject,
    effective_rate,
    equilibrium_norm,
    growth,
    law_of,
)
from fromage_cli.diagnostics.intrinsic_lr.result import Absent, Drop, Evidence, LayerEquilibrium
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.theory.equilibrium import Equilibrium
from fromage_cli.theory.relaxation import after_drop, times_until_near

GROWTH = "growth_per_step"
NO_SIZE = "the norm is zero or not finite"
POINTS = 25
"""Points of the course after a drop."""
TIMES = 4.0
"""Relaxation times that it covers."""


@dataclass
class Reasons:
    """Why numbers are null, layer by layer."""

    found: dict[tuple[tuple[str, ...], str], list[str]] = field(default_factory=dict)

    def add(self, layer: str, names: Sequence[str], reason: str) -> None:
        """Note why those fields of a layer are null."""
        if names:
            self.found.setdefault((tuple(names), reason), []).append(layer)

    def absent(self) -> tuple[Absent, ...]:
        """Each reason with the fields and the layers that it explains."""
        return tuple(Absent(names, reason, tuple(layers)) for (names, reason), layers in self.found.items())


@dataclass(frozen=True)
class Measuring:
    """One measurement on its way, layer by layer."""

    checkpoints: Sequence[Checkpoint]
    training: Training
    evidence: Evidence
    drop: float | None
    reasons: Reasons

    def layer(self, name: str, norm: float, observed: tuple[float | None, ...]) -> LayerEquilibrium:
        """One layer's numbers; what is null is noted with its reason."""
        entry, known, training = self.checkpoints[-1].entries[name], self.evidence.layers.get(name), self.training
        subject = self._subject(name, norm, -1)
        law = law_of(subject)
        grown = self._growth(name, subject, law)
        end, ratio = self._end(name, subject, law)
        if observed and observed[-1] is None:
            self.reasons.add(
                name, ("observed_rotation",), "the norm is zero or not finite in one of the two checkpoints"
            )
        equilibrium = law.equilibrium
        relaxation = equilibrium.relaxation if equilibrium is not None else None
        expected = self._expected(name)
        if equilibrium is not None and None in expected[-1:]:
            self.reasons.add(
                name, ("expected_rotation",), "the learning rate of the checkpoint before is not known, or 0"
            )
        return LayerEquilibrium(
            name=name,
            kind=known.kind if known is not None else None,
            shape=entry.shape,
            parameters=entry.elements,
            learning_rate=subject.rate,
            weight_decay=subject.decay,
            intrinsic_learning_rate=law.intrinsic,
            effective_learning_rate=self._effective(name, subject),
            verdict=known.verdict if known is not None else "untested",
            granularity=known.granularity if known is not None else None,
            norm=norm,
            batch_gradient_norm=None if subject.squared_gradient is None else math.sqrt(subject.squared_gradient),
            equilibrium_norm=end,
            log_ratio=None if ratio is None else math.log(ratio),
            growth_per_step=grown,
            relaxation_steps=relaxation,
            relaxation_epochs=relaxation / training.steps_per_epoch
            if relaxation and training.steps_per_epoch
            else None,
            steps_to_equilibrium=_way(equilibrium, ratio),
            expected_rotation=expected[-1] if expected else equilibrium.rotation if equilibrium else None,
            observed_rotation=observed[-1] if observed else None,
            drop=_drop(equilibrium, ratio, self.drop) if 0.0 < norm < math.inf else None,
            expected_rotations=expected,
            observed_rotations=observed,
        )

    def _subject(self, name: str, norm: float, index: int) -> Subject:
        known = self.evidence.layers.get(name)
        return Subject(
            training=self.training,
            rate=self.training.rates[name][index],
            decay=self.training.decays[name],
            norm=norm,
            elements=self.checkpoints[-1].entries[name].elements,
            squares=known.squares if known is not None else None,
            squared_gradient=known.squared_gradient if known is not None else None,
            invariant=known is None or known.verdict != "none",
        )

    def _growth(self, name: str, subject: Subject, law: Law) -> float | None:
        """Growth of ln ‖W‖ where nothing settles; with it, what the law leaves null is noted."""
        found = None if law.settles else growth(subject)
        if found is not None or law.settles:
            self._note(name, subject.norm, law, law.missing)
        elif law.reason != WITHOUT_DECAY:
            self._note(name, subject.norm, law, (*law.missing, GROWTH))
        else:
            self._note(name, subject.norm, law, law.missing)
            sized = 0.0 < subject.norm < math.inf
            self.reasons.add(name, (GROWTH,), self.evidence.no_gradients if sized else NO_SIZE)
        return found

    def _note(self, name: str, norm: float, law: Law, missing: tuple[str, ...]) -> None:
        self.reasons.add(name, missing, law.reason)
        for others, reason in law.other:
            self.reasons.add(name, others, reason)
        if self.drop is not None and (law.equilibrium is None or law.equilibrium.relaxation is None):
            self.reasons.add(name, ("drop",), law.reason)
        elif self.drop is not None and not 0.0 < norm < math.inf:
            self.reasons.add(name, ("drop",), NO_SIZE)

    def _end(self, name: str, subject: Subject, law: Law) -> tuple[float | None, float | None]:
        """‖W*‖ and ‖W‖ / ‖W*‖."""
        if not law.settles:
            return None, None
        end = equilibrium_norm(subject) or None
        if end is None:
            zero = "the gradients of the batch are zero" if subject.squares is not None else None
            self.reasons.add(name, NORM, zero or self.evidence.no_gradients)
        elif 0.0 < subject.norm < math.inf:
            return end, subject.norm / end
        else:
            self.reasons.add(name, NORM[1:], NO_SIZE)
        return end, None

    def _effective(self, name: str, subject: Subject) -> float | None:
        found = effective_rate(self.training, subject.rate, subject.norm)
        if found is None and subject.rate is not None:
            undefined = self.training.optimizer not in RATE_POWERS or self.training.variant is not None
            what = self.training.variant or self.training.optimizer
            self.reasons.add(name, RATES[1:], f"it is not defined for {what}" if undefined else NO_SIZE)
        return found

    def _expected(self, name: str) -> tuple[float | None, ...]:
        """The angles that equilibrium would give, by the mean of what the rates at both ends do."""
        count = len(self.checkpoints)
        laws = [law_of(self._subject(name, 1.0, index)).equilibrium for index in range(count)]
        steps = [checkpoint.step for checkpoint in self.checkpoints]
        return tuple(_turn(laws[index : index + 2], steps[index], steps[index + 1]) for index in range(count - 1))


def _way(equilibrium: Equilibrium | None, ratio: float | None) -> float | None:
    if equilibrium is None or equilibrium.relaxation is None or ratio is None:
        return None
    return times_until_near(ratio, equilibrium.power) * equilibrium.relaxation


def _turn(laws: Sequence[Equilibrium | None], start: int | None, stop: int | None) -> float | None:
    first, second = laws
    if first is None or second is None or start is None or stop is None:
        return None
    return second.rotation_over(stop - start, (first.diffusion + second.diffusion) / 2.0)


def _drop(equilibrium: Equilibrium | None, ratio: float | None, factor: float | None) -> Drop | None:
    """The course of the effective rate after the drop that was asked for."""
    course = after_drop(equilibrium, factor, ratio or 1.0) if equilibrium is not None and factor is not None else None
    if course is None:
        return None
    steps = tuple(TIMES * course.relaxation * index / (POINTS - 1) for index in range(POINTS))
    return Drop(
        at_once=course.at_once,
        final=course.final,
        recovery_steps=course.recovery(),
        from_equilibrium=ratio is None,
        steps=steps,
        ratios=tuple(course.at(step) for step in steps),
    )
