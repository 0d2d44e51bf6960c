"""What theory says of one layer under its rule and settings, and the reasons where it says nothing."""

import math
from dataclasses import dataclass, replace

from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, LARS, LION, RULES, SGD
from fromage_cli.theory.equilibrium import (
    Equilibrium,
    adam_growth,
    adamw_equilibrium,
    adamw_norm,
    lars_equilibrium,
    lars_growth,
    lars_norm,
    lion_equilibrium,
    lion_growth,
    lion_norm,
    relative_rotation,
    sgd_equilibrium,
    sgd_growth,
    sgd_norm,
)

NO_RATE = Missing(Why.LEARNING_RATE_UNKNOWN, "the learning rate is not known: --lr, or a state of the optimizer")
RATE_ZERO = Missing(Why.NOTHING_MOVES, "the learning rate is 0, the end of its schedule: --lr gives another")
NO_DECAY = Missing(
    Why.WEIGHT_DECAY_UNKNOWN, "the weight decay is not known: --weight-decay, or a state of the optimizer"
)
WITHOUT_DECAY = Missing(Why.NO_EQUILIBRIUM, "without weight decay the norm grows and never settles")
LARS_DECOUPLED = Missing(
    Why.NO_EQUILIBRIUM, "LARS with decoupled decay grows or shrinks for ever, by the sign of ½ ln(1+(η'H)²) − η·wd"
)
LARS_DECAY = Missing(Why.NO_FORMULA, "what LARS decays in a step depends on the size of the gradient")
FROMAGE_KEEPS = Missing(Why.NO_EQUILIBRIUM, "Fromage keeps the norm of a scale-invariant layer: it goes nowhere else")
FOREIGN_DECAY = Missing(
    Why.NO_FORMULA,
    "Fromage has no weight decay of its own, and how the one found in its state or declared acts is not known",
)
COUPLED_ADAM = Missing(Why.NO_FORMULA, "Adam with decay coupled to the gradient has no closed form")
NOT_INVARIANT = Missing(
    Why.NOT_SCALE_INVARIANT, "the layer is not scale-invariant, and the theory speaks of such layers alone"
)
NO_SIZE = Missing(Why.ZERO_OR_NOT_FINITE, "the norm is zero or not finite")
SETTLES = Missing(Why.NOT_DEFINED, "the norm settles")
RATE_POWERS = {name: rule.rate_power for name, rule in RULES.items() if rule.rate_power is not None}
"""The effective rate is η / ‖W‖ to this power."""
NEEDS_GRADIENTS = (SGD.name, LARS.name)


@dataclass(frozen=True)
class Law:
    """What theory says of a layer."""

    equilibrium: Equilibrium | Missing
    """How it turns, and where it settles how fast."""
    intrinsic: float | Missing
    """The intrinsic learning rate."""
    unsettled: Missing | None = None
    """Why there is no equilibrium norm; None where there is one."""


@dataclass(frozen=True)
class Subject:
    """What is known of a layer."""

    training: Training
    rate: float | None
    decay: float | None
    norm: float
    elements: int
    squares: tuple[float, ...] | None = None
    """E‖g̃_u‖² of every unit."""
    squared_gradient: float | None = None
    """E‖g‖²."""
    invariant: bool = True
    """Measured or assumed."""

    @property
    def step(self) -> float:
        """The relative step of LARS and Fromage."""
        return (self.rate or 0.0) * self.training.trust


def law_of(subject: Subject) -> Law:
    """The law of a layer with these settings."""
    if not subject.invariant:
        return Law(NOT_INVARIANT, law_of(replace(subject, invariant=True)).intrinsic, NOT_INVARIANT)
    rate, decay, name = subject.rate, subject.decay, subject.training.optimizer
    if rate is None:
        return _none(NO_RATE)
    if rate == 0.0:
        return _none(RATE_ZERO)
    if decay is None and name == LARS.name:
        return _relative(subject, NO_DECAY, NO_DECAY)
    if decay is None and name != FROMAGE.name:
        return _none(NO_DECAY)
    known = name if subject.training.variant is None else ""
    return _LAWS.get(known, _without_form)(subject, rate, decay or 0.0)


def _none(reason: Missing) -> Law:
    return Law(reason, reason, reason)


def _relative(subject: Subject, intrinsic: float | Missing, unsettled: Missing) -> Law:
    """A relative step turns the layer at the same speed whatever its norm, which does not settle."""
    return Law(relative_rotation(subject.step, subject.training.gains), intrinsic, unsettled)


def _sgd(subject: Subject, rate: float, decay: float) -> Law:
    if decay == 0.0:
        return Law(WITHOUT_DECAY, 0.0, WITHOUT_DECAY)
    found = sgd_equilibrium(rate, decay, subject.training.gains)
    return Law(found, found.diffusion)


def _adaptive(subject: Subject, rate: float, decay: float) -> Law:
    training = subject.training
    if decay == 0.0:
        return Law(WITHOUT_DECAY, 0.0, WITHOUT_DECAY)
    if training.optimizer == ADAM.name and not training.decoupled:
        return _none(COUPLED_ADAM)
    make = lion_equilibrium if training.optimizer == LION.name else adamw_equilibrium
    return Law(make(rate, decay, _betas(training)), rate * decay)


def _lars(subject: Subject, rate: float, decay: float) -> Law:
    if decay == 0.0:
        return _relative(subject, 0.0, WITHOUT_DECAY)
    if subject.training.decoupled:
        return _relative(subject, rate * decay, LARS_DECOUPLED)
    return Law(lars_equilibrium(subject.step, subject.training.gains), LARS_DECAY)


def _fromage(subject: Subject, rate: float, decay: float) -> Law:
    return _none(FOREIGN_DECAY) if decay else _relative(subject, 0.0, FROMAGE_KEEPS)


def _without_form(subject: Subject, rate: float, decay: float) -> Law:
    name = subject.training.variant or subject.training.optimizer
    known = RULES[name].without.get("equilibrium") if name in RULES else None
    return _none(Missing(Why.NO_FORMULA, known or f"there is no closed form for {name}"))


_LAWS = {
    SGD.name: _sgd,
    ADAM.name: _adaptive,
    ADAMW.name: _adaptive,
    LION.name: _adaptive,
    LARS.name: _lars,
    FROMAGE.name: _fromage,
}


def _betas(training: Training) -> tuple[float, float]:
    return training.betas or (0.9, 0.999)


def equilibrium_norm(subject: Subject) -> float | None:
    """‖W*‖ of a layer whose law settles; None where it takes gradients that are not at hand."""
    training, rate, decay = subject.training, subject.rate or 0.0, subject.decay or 0.0
    if training.optimizer in (ADAM.name, ADAMW.name):
        return adamw_norm(rate, decay, subject.elements)
    if training.optimizer == LION.name:
        return lion_norm(rate, decay, _betas(training), subject.elements)
    if subject.squares is None:
        return None
    if training.optimizer == LARS.name:
        return math.hypot(*(lars_norm(subject.step, decay, training.gains, square) for square in subject.squares))
    return math.hypot(*(sgd_norm(rate, decay, training.gains, square) for square in subject.squares))


def growth(subject: Subject) -> float | None:
    """Growth of ln ‖W‖ in a step of a layer that does not settle; None where it takes gradients not at hand."""
    training, rate, norm = subject.training, subject.rate, subject.norm
    if not subject.invariant or rate is None or not 0.0 < norm < math.inf:
        return None
    if training.optimizer == FROMAGE.name:
        return None if subject.decay else 0.0
    if training.optimizer == LARS.name and subject.decay is not None:
        return lars_growth(subject.step, training.gains, rate * subject.decay if training.decoupled else 0.0)
    if training.optimizer in (ADAM.name, ADAMW.name, LION.name) and subject.decay == 0.0:
        lion = training.optimizer == LION.name
        size = lion_growth(rate, _betas(training), subject.elements) if lion else adam_growth(rate, subject.elements)
        return size / (2.0 * norm**2)
    if training.optimizer == SGD.name and subject.decay == 0.0 and subject.squared_gradient is not None:
        return sgd_growth(rate, training.gains, norm**2 * subject.squared_gradient) / (4.0 * norm**4)
    return None


def effective_rate(training: Training, rate: float | None, norm: float) -> float | Missing:
    """η / ‖W‖², η / ‖W‖, or the relative step, which is not defined for a step that may be clipped."""
    clipped = training.optimizer == LARS.name and training.variant is not None
    power = None if clipped else RATE_POWERS.get(training.optimizer)
    if rate is None:
        return NO_RATE
    if power is None:
        return Missing(Why.NO_FORMULA, f"it is not defined for {training.variant or training.optimizer}")
    if power and not 0.0 < norm < math.inf:
        return NO_SIZE
    return float(rate * training.trust / norm**power)
