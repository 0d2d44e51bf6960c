"""What theory says of one layer under its rule and settings, and the reasons where it says nothing."""

import math
from dataclasses import dataclass, replace

from fromage_cli.diagnostics.intrinsic_lr.result import NO_MODEL
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.effective_rate import FOREIGN_DECAY, NO_NORM
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
COUPLED_ADAM = Missing(Why.NO_FORMULA, "Adam with decay coupled to the gradient has no closed form")
NOT_INVARIANT = Missing(
    Why.NOT_SCALE_INVARIANT, "the layer is not scale-invariant, and the theory speaks of such layers alone"
)
SETTLES = Missing(Why.NOT_DEFINED, "the norm settles")
ZERO_GRADIENTS = Missing(Why.ZERO_OR_NOT_FINITE, "the gradients of the batch are zero")
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
    squares: tuple[float, ...] | Missing = NO_MODEL
    """E‖g̃_u‖² of every unit."""
    squared_gradient: float | Missing = NO_MODEL
    """E‖g‖²."""
    invariant: bool = True
    """Measured or assumed."""

    @property
    def step(self) -> float:
        """The relative step of LARS and Fromage."""
        return (self.rate or 0.0) * self.training.trust

    @property
    def betas(self) -> tuple[float, float]:
        """β₁ and β₂ of a rule that has them."""
        betas: tuple[float, float] = self.training.betas or RULES[self.training.optimizer].defaults["betas"]
        return betas


def law_of(subject: Subject) -> Law:
    """The law of a layer with these settings, or why there is none."""
    if not subject.invariant:
        return Law(NOT_INVARIANT, law_of(replace(subject, invariant=True)).intrinsic, NOT_INVARIANT)
    training, rule = subject.training, RULES.get(subject.training.optimizer)
    rate, decay, gains = subject.rate or 0.0, subject.decay, training.gains
    no_form = f"there is no closed form for {training.variant or training.optimizer}"
    if training.variant is None and rule is not None:
        no_form = rule.without.get("equilibrium", "")
    reasons = (
        (subject.rate is None, NO_RATE),
        (subject.step == 0.0, RATE_ZERO),
        (decay is None and rule not in (LARS, FROMAGE), NO_DECAY),
        (bool(no_form), Missing(Why.NO_FORMULA, no_form)),
        (rule is FROMAGE and bool(decay), FOREIGN_DECAY),
        (rule is ADAM and bool(decay) and not training.decoupled, COUPLED_ADAM),
    )
    reason = next((reason for holds, reason in reasons if holds), None)
    if reason is not None:
        return Law(reason, reason, reason)
    if rule is LARS and decay and not training.decoupled:
        return Law(lars_equilibrium(subject.step, gains), LARS_DECAY)
    if rule in (LARS, FROMAGE):
        intrinsic: float | Missing = rate * (decay or 0.0)
        unsettled = LARS_DECOUPLED if decay else WITHOUT_DECAY
        if rule is FROMAGE:
            unsettled = FROMAGE_KEEPS
        elif decay is None:
            intrinsic = unsettled = NO_DECAY
        # the layer turns at the same speed whatever its norm, which does not settle
        return Law(relative_rotation(subject.step, gains), intrinsic, unsettled)
    if not decay:
        return Law(WITHOUT_DECAY, 0.0, WITHOUT_DECAY)
    if rule is SGD:
        found = sgd_equilibrium(rate, decay, gains)
    else:
        found = (lion_equilibrium if rule is LION else adamw_equilibrium)(rate, decay, subject.betas)
    return Law(found, found.diffusion)


def equilibrium_norm(subject: Subject) -> float | Missing:
    """‖W*‖ of a layer whose law settles: for SGD and LARS √Σ w*² over its parts, which takes gradients."""
    training, rate, decay = subject.training, subject.rate or 0.0, subject.decay or 0.0
    if training.optimizer in (ADAM.name, ADAMW.name):
        return adamw_norm(rate, decay, subject.elements)
    if training.optimizer == LION.name:
        return lion_norm(rate, decay, subject.betas, subject.elements)
    if isinstance(subject.squares, Missing):
        return subject.squares
    norm, step = (lars_norm, subject.step) if training.optimizer == LARS.name else (sgd_norm, rate)
    return math.hypot(*(norm(step, decay, training.gains, square) for square in subject.squares)) or ZERO_GRADIENTS


def growth(subject: Subject, law: Law) -> float | Missing:
    """How fast ln ‖W‖ grows in a step of a layer that does not settle, or why it is not told."""
    training, rate, norm, why = subject.training, subject.rate or 0.0, subject.norm, law.unsettled
    if why is None:
        return SETTLES
    if why.code not in (Why.NO_EQUILIBRIUM, Why.NOTHING_MOVES):
        return why
    if not 0.0 < norm < math.inf:
        return NO_NORM
    found: float | Missing = why
    name, decay, squared = training.optimizer, subject.decay, subject.squared_gradient
    if name == FROMAGE.name and not decay:
        found = 0.0
    elif name == LARS.name and decay is not None:
        found = lars_growth(subject.step, training.gains, rate * decay if training.decoupled else 0.0)
    elif name == SGD.name and decay == 0.0:
        if not isinstance(squared, Missing):
            found = sgd_growth(rate, training.gains, norm**2 * squared) / (4.0 * norm**4)
        elif rate:
            found = squared
    elif name == LION.name and decay == 0.0:
        found = lion_growth(rate, subject.betas, subject.elements) / (2.0 * norm**2)
    elif name in (ADAM.name, ADAMW.name) and decay == 0.0:
        found = adam_growth(rate, subject.elements) / (2.0 * norm**2)
    return found


def rotation_between(before: Equilibrium | Missing, after: Equilibrium | Missing, steps: int | None) -> float | Missing:
    """The angle between two checkpoints so many steps apart, radians, by the mean of the laws at both ends."""
    if isinstance(after, Missing):
        return after
    if isinstance(before, Missing):
        return Missing(before.code, "the learning rate of the checkpoint before is not known, or 0")
    if steps is None:
        return Missing(Why.STEP_UNKNOWN, "the step of a checkpoint is not known")
    return before.rotation_over(steps, (before.diffusion + after.diffusion) / 2.0)
