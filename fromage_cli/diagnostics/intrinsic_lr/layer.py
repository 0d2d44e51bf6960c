"""One layer against its equilibrium: each number, or the reason why it is missing."""

import math
from dataclasses import replace

from fromage_cli.diagnostics.intrinsic_lr.measuring import Measuring, Read
from fromage_cli.diagnostics.intrinsic_lr.path import Path
from fromage_cli.diagnostics.intrinsic_lr.prediction import (
    NEVER_UPDATED,
    NO_DECAY,
    NO_RATE,
    UNCHANGED,
    Prediction,
    equilibrium_norm,
    growth,
    predict,
)
from fromage_cli.diagnostics.intrinsic_lr.result import DOUBT, ONE_CHECKPOINT, Drop, LayerEquilibrium, LayerEvidence
from fromage_cli.diagnostics.intrinsic_lr.subject import sized
from fromage_cli.missing import Missing, Why, known
from fromage_cli.optimizers.effective_rate import NO_NORM, effective_rate
from fromage_cli.theory.relaxation import after_drop

POINTS = 25
"""Points of the course after a drop: enough for a smooth curve."""
TIMES = 4.0
"""Settling times that it covers, after which 2 % of the way are left."""
NO_DROP = Missing(Why.NOT_ASKED, "no drop of the rate was asked for")


def layer_of(measuring: Measuring, name: str, read: Read, drop: float | None) -> LayerEquilibrium:
    """One layer's numbers; `drop`: the factor of the drop that was asked for."""
    evidence, entry = measuring.evidence.layers.get(name, LayerEvidence()), measuring.checkpoints[-1].entries[name]
    norms, observed, inactive = read.norms, read.observed, read.inactive
    subject = measuring.subject(name, read)
    training, norm = subject.training, subject.norm
    predictions = [predict(replace(subject, rate=rate)) for rate in training.rates[name]]
    predicted, squared, varying = predictions[-1], subject.squared_gradient, measuring.varying
    end = predicted.unsettled or equilibrium_norm(subject)
    has_size = sized(norm * norm)
    ratio = end if isinstance(end, Missing) else norm / end if has_size else NO_NORM
    void = varying if predicted.unsettled is None or predicted.unsettled.code == Why.NOTHING_MOVES else None
    void = None if subject.untrained else void
    effective: float | Missing = subject.untrained or NO_RATE
    if subject.rate is not None and subject.untrained is None:
        effective = effective_rate(training.optimizer, subject.rate, norm, training.trust, clipped=training.clipped)
    path = Path.of(measuring, name, subject, read)
    expected = path.rotations(predictions, measuring.gaps)
    turn = predicted.equilibrium if isinstance(predicted.equilibrium, Missing) else predicted.equilibrium.rotation
    expected_norms, forecast = path.expected_norms, path.forecast
    so_far = expected_norms[-1] if expected_norms else ONE_CHECKPOINT
    if not isinstance(so_far, Missing):
        so_far = so_far / norms[-1] if has_size else NO_NORM
    refuted = not isinstance(so_far, Missing) and abs(so_far - 1.0) > DOUBT
    return LayerEquilibrium(
        name=name,
        kind=evidence.kind,
        shape=entry.shape,
        parameters=entry.elements,
        learning_rate=subject.untrained or NO_RATE if subject.rate is None else subject.rate,
        weight_decay=subject.untrained or NO_DECAY if subject.decay is None else subject.decay,
        intrinsic_learning_rate=predicted.intrinsic,
        effective_learning_rate=effective,
        verdict=evidence.verdict,
        granularity=evidence.granularity,
        norm=norms[-1],
        batch_gradient_norm=squared if isinstance(squared, Missing) else math.sqrt(squared),
        equilibrium_norm=void or end,
        log_ratio=void or (ratio if isinstance(ratio, Missing) else math.log(ratio)),
        growth_per_step=growth(subject, predicted),
        relaxation_steps=predicted.relaxation,
        relaxation_epochs=predicted.relaxation_epochs(training.steps_per_epoch),
        steps_to_equilibrium=void or predicted.steps_until_near(ratio),
        expected_rotation=expected[-1] if expected else void or turn,
        observed_rotation=observed[-1] if observed else ONE_CHECKPOINT,
        drop=_course(drop, predicted, ratio) if has_size else NO_NORM,
        angle_per_step=path.angle,
        forecast=forecast,
        norms=norms,
        expected_norms=expected_norms,
        calibrated=path.calibrated and known(path.angle) is not None,
        unchanged=subject.untrained is UNCHANGED,
        never_updated=subject.untrained is NEVER_UPDATED,
        norm_ratio=so_far,
        forecast_doubtful=refuted and known(forecast) is not None,
        inactive=inactive.entries,
        units_without_size=sum(not sized(size) for size in known(evidence.sizes) or ()) if has_size else 0,
        expected_rotations=expected,
        observed_rotations=observed,
    )


def _course(drop: float | None, predicted: Prediction, ratio: float | Missing) -> Drop | Missing:
    """The course of the effective rate after the drop that was asked for."""
    if drop is None:
        return NO_DROP
    if isinstance(predicted.equilibrium, Missing):
        return predicted.equilibrium
    course = after_drop(predicted.equilibrium, drop, 1.0 if isinstance(ratio, Missing) else ratio)
    if course is None:
        return predicted.unsettled or NO_NORM
    steps = tuple(TIMES * course.relaxation * index / (POINTS - 1) for index in range(POINTS))
    return Drop(
        at_once=course.at_once,
        final=course.final,
        recovery_steps=course.recovery(),
        from_equilibrium=isinstance(ratio, Missing),
        steps=steps,
        ratios=tuple(course.at(step) for step in steps),
    )
