"""What theory says of one layer under its rule and settings, and the reasons where it says nothing."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fromage_cli.diagnostics.intrinsic_lr.result import NO_MODEL
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.effective_rate import FOREIGN_DECAY, NO_NORM
from fromage_cli.optimizers.rule import RULES, StepSize
from fromage_cli.theory.equilibrium import (
    Equilibrium,
    Gains,
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
from fromage_cli.theory.relaxation import (
    Motion,
    adamw_motion,
    lars_motion,
    lion_motion,
    relative_motion,
    sgd_motion,
    times_until_near,
)

NO_RATE = Missing(
    Why.LEARNING_RATE_UNKNOWN, "the learning rate is not known: --lr 0.001, or a saved optimizer, tells it"
)
RATE_ZERO = Missing(Why.NOTHING_MOVES, "the learning rate is 0, at an end of its schedule: --lr gives another")
NO_DECAY = Missing(
    Why.WEIGHT_DECAY_UNKNOWN, "the weight decay is not known: --weight-decay 0.0005 gives it (0 where there was none)"
)
WITHOUT_DECAY = Missing(Why.NO_EQUILIBRIUM, "without weight decay the norm grows and never settles")
NOT_INVARIANT = Missing(Why.NOT_SCALE_INVARIANT, "the layer is not scale-invariant, so that it has no equilibrium norm")
UNCHANGED = Missing(Why.NOTHING_MOVES, "the layer is not trained: its bytes are the same in all checkpoints")
NEVER_UPDATED = Missing(
    Why.NOTHING_MOVES, "the layer is not trained: the optimizer's state has no slot for it, beside others that have one"
)
NO_EPOCHS = Missing(Why.NOT_ASKED, "the steps of an epoch were not given")
SETTLES = Missing(Why.NOT_DEFINED, "the norm settles")
SCHEDULE = Missing(Why.SCHEDULE, "it holds for a constant learning rate, and this one changes along its schedule")
SMALLEST = 1e-150
"""Of ‖w‖², at which its own square can still be told from zero."""
ZERO_GRADIENTS = Missing(Why.ZERO_OR_NOT_FINITE, "the gradients of the batch are zero")


@dataclass(frozen=True)
class Law:
    """What theory says of a layer."""

    equilibrium: Equilibrium | Missing
    """How it turns, and where it settles how fast."""
    intrinsic: float | Missing
    """The intrinsic learning rate."""
    unsettled: Missing | None = None
    """Why there is no equilibrium norm; None where there is one."""

    @property
    def relaxation(self) -> float | Missing:
        """How many steps the norm takes to settle."""
        if isinstance(self.equilibrium, Missing) or self.equilibrium.relaxation is None:
            return self.unsettled or NO_NORM
        return self.equilibrium.relaxation

    def relaxation_epochs(self, steps_per_epoch: int | None) -> float | Missing:
        """The same in epochs of so many steps."""
        if isinstance(self.relaxation, Missing):
            return self.relaxation
        return self.relaxation / steps_per_epoch if steps_per_epoch else NO_EPOCHS

    def steps_until_near(self, ratio: float | Missing) -> float | Missing:
        """Steps until the norm, now `ratio` times that of its equilibrium, is near it."""
        if isinstance(self.equilibrium, Missing) or isinstance(self.relaxation, Missing):
            return self.relaxation
        if isinstance(ratio, Missing):
            return ratio
        return times_until_near(ratio, self.equilibrium.power) * self.relaxation


@dataclass(frozen=True)
class Subject:
    """What is known of a layer."""

    training: Training
    rate: float | None
    decay: float | None
    norm: float
    elements: int
    sizes: tuple[float, ...] | Missing = NO_MODEL
    """‖w_u‖² of every unit."""
    squares: tuple[float, ...] | Missing = NO_MODEL
    """E‖g̃_u‖² of every unit."""
    squared_gradient: float | Missing = NO_MODEL
    """E‖g‖²."""
    invariant: bool = True
    """Measured or assumed."""
    untrained: Missing | None = None
    """Why it is not trained; None where it is."""

    @property
    def step(self) -> float:
        """The rate, times the trust coefficient where the rule has one."""
        return (self.rate or 0.0) * self.training.trust

    @property
    def past_gradient(self) -> float:
        """What decay past the gradient takes off in a step, per unit of decay."""
        return (self.rate or 0.0) if self.training.decoupled else 0.0

    @property
    def betas(self) -> tuple[float, float]:
        """β₁ and β₂ of a rule that has them."""
        betas: tuple[float, float] = self.training.betas or RULES[self.training.optimizer].defaults["betas"]
        return betas

    @property
    def formulas(self) -> "Formulas | None":
        """Those of its rule; None where it has none."""
        return FORMULAS.get(self.training.rule.step_size) if self.training.rule is not None else None

    def over_units(self, norm: Callable[[float, float, Gains, float], float], decay: float) -> float | Missing:
        """√Σ w*² over the units, whose gradients make their norms."""
        if isinstance(self.squares, Missing):
            return self.squares
        return (
            math.hypot(*(norm(self.step, decay, self.training.gains, each) for each in self.squares)) or ZERO_GRADIENTS
        )


def sized(square: float) -> bool:
    """Whether ‖w‖² is one to divide by: neither zero nor without bound."""
    return SMALLEST < square < 1.0 / SMALLEST


Units = tuple[tuple[float, float], ...]
"""‖w_u‖² of every unit, and what its gradients are as large as: G of its Motion."""


@dataclass(frozen=True)
class Formulas:
    """What theory has for steps of one kind of size; each takes a layer and its decay."""

    equilibrium: Callable[[Subject, float], Equilibrium]
    """Where it settles how fast, with a decay above 0."""
    norm: Callable[[Subject, float], float | Missing]
    """‖W*‖, with a decay above 0."""
    growth: Callable[[Subject, float], float | Missing]
    """Of ln ‖W‖ in a step of a layer that does not settle."""
    motion: Callable[[Subject, float], Motion]
    """How the norm goes at a rate."""
    units: Callable[[Subject], Units | Missing]
    """What goes by it."""
    angle: Callable[[Subject, Units, float], float]
    """Radians that one step turns units at a rate."""
    relative: bool = False
    """Whether it turns at the same speed whatever its norm, and grows at the same speed whatever its decay."""


def _parts(layer: Subject) -> Units | Missing:
    """Its units as the model has them, without those that have no size: such a one has no angle, and no gradient to
    scale.
    """
    if isinstance(layer.squares, Missing) or isinstance(layer.sizes, Missing):
        return layer.squares if isinstance(layer.squares, Missing) else NO_MODEL
    return tuple(unit for unit in zip(layer.sizes, layer.squares, strict=True) if sized(unit[0])) or NO_NORM


def _whole(layer: Subject) -> Units | Missing:
    """The layer as one unit, of which every entry's step has the same size."""
    square = layer.norm * layer.norm
    return ((square, float(layer.elements)),) if sized(square) else NO_NORM


def _relative_whole(layer: Subject) -> Units | Missing:
    """The layer as one unit whose gradient, if it matters, makes the decay as large as it is: 1 / Σ ‖g̃_u‖."""
    square = layer.norm * layer.norm
    if not sized(square):
        return NO_NORM
    if not layer.decay or layer.training.decoupled:
        return ((square, 0.0),)
    if isinstance(layer.squares, Missing):
        return layer.squares
    total = sum(math.sqrt(each) for each in layer.squares)
    return ((square, 1.0 / total),) if total else ZERO_GRADIENTS


def _relative_motion(layer: Subject, decay: float) -> Motion:
    """LARS, and Fromage, which divides by as much as its step would add."""
    training = layer.training
    if training.rule is not None and training.rule.keeps_norm:
        return Motion(-2, (0.0, 0.0), (0.0, 0.0))
    if decay and not training.decoupled:
        return lars_motion(decay, training.trust, training.gains)
    return relative_motion(decay, training.trust, training.gains)


FORMULAS: Mapping[StepSize | None, Formulas] = {
    "gradient": Formulas(
        lambda layer, decay: sgd_equilibrium(layer.step, decay, layer.training.gains),
        lambda layer, decay: layer.over_units(sgd_norm, decay),
        lambda layer, decay: (
            layer.squared_gradient
            if isinstance(layer.squared_gradient, Missing)
            else sgd_growth(layer.step, layer.training.gains, layer.norm**2 * layer.squared_gradient)
            / (4.0 * layer.norm**4)
        ),
        lambda layer, decay: sgd_motion(decay, layer.training.gains),
        _parts,
        lambda layer, units, rate: (
            rate
            * layer.training.trust
            * math.sqrt(layer.training.gains.squared * sum(source / size for size, source in units))
            / math.sqrt(sum(size for size, _ in units))
        ),
    ),
    "root mean square": Formulas(
        lambda layer, decay: adamw_equilibrium(layer.step, decay, layer.betas),
        lambda layer, decay: adamw_norm(layer.step, decay, layer.elements),
        lambda layer, decay: adam_growth(layer.step, layer.elements) / (2.0 * layer.norm**2),
        lambda layer, decay: adamw_motion(decay),
        _whole,
        lambda layer, units, rate: (
            rate * math.sqrt((1.0 - layer.betas[0]) / (1.0 + layer.betas[0]) * units[0][1] / units[0][0])
        ),
    ),
    "sign": Formulas(
        lambda layer, decay: lion_equilibrium(layer.step, decay, layer.betas),
        lambda layer, decay: lion_norm(layer.step, decay, layer.betas, layer.elements),
        lambda layer, decay: lion_growth(layer.step, layer.betas, layer.elements) / (2.0 * layer.norm**2),
        lambda layer, decay: lion_motion(decay, layer.betas),
        _whole,
        lambda layer, units, rate: rate * math.sqrt(units[0][1] / units[0][0]),
    ),
    "weights": Formulas(
        lambda layer, decay: lars_equilibrium(layer.step, layer.training.gains),
        lambda layer, decay: layer.over_units(lars_norm, decay),
        lambda layer, decay: lars_growth(layer.step, layer.training.gains, layer.past_gradient * decay),
        _relative_motion,
        _relative_whole,
        lambda layer, units, rate: rate * layer.training.trust * math.sqrt(layer.training.gains.squared),
        relative=True,
    ),
}


def law_of(layer: Subject) -> Law:
    """What theory says of a layer with these settings, or why it says nothing."""
    if layer.untrained is not None:
        return Law(layer.untrained, layer.untrained, layer.untrained)
    if not layer.invariant:
        return Law(NOT_INVARIANT, law_of(replace(layer, invariant=True)).intrinsic, NOT_INVARIANT)
    training, rule, decay, formulas = layer.training, layer.training.rule, layer.decay, layer.formulas
    relative = formulas is not None and formulas.relative
    no_form: str | None = f"there is no closed form for {training.variant or training.optimizer}"
    if training.variant is None and rule is not None:
        no_form = rule.without.get("equilibrium")
        if decay and not training.decoupled:
            no_form = rule.without.get("coupled equilibrium", no_form)
    reasons = (
        (layer.rate is None, NO_RATE),
        (layer.step == 0.0, RATE_ZERO),
        (decay is None and not relative, NO_DECAY),
        (no_form is not None, Missing(Why.NO_FORMULA, no_form or "")),
        (bool(decay) and rule is not None and rule.decay is None, FOREIGN_DECAY),
    )
    known = [reason for holds, reason in reasons if holds]
    if known or rule is None or formulas is None:
        return Law(known[0], known[0], known[0])
    if decay and not (relative and training.decoupled):
        found = formulas.equilibrium(layer, decay)
        decayed = f"what {rule.title} decays in a step depends on the size of the gradient"
        return Law(found, Missing(Why.NO_FORMULA, decayed) if relative else found.diffusion)
    if not relative:
        return Law(WITHOUT_DECAY, 0.0, WITHOUT_DECAY)
    # the layer turns at the same speed whatever its norm, which does not settle
    intrinsic: float | Missing = (layer.rate or 0.0) * (decay or 0.0)
    unsettled = WITHOUT_DECAY
    if rule.keeps_norm:
        words = f"{rule.title} keeps the norm of a scale-invariant layer as it is"
        unsettled = Missing(Why.NO_EQUILIBRIUM, words)
    elif decay is None:
        intrinsic = unsettled = NO_DECAY
    elif decay:
        words = f"{rule.title} with decoupled decay grows or shrinks for ever, by the sign of ½ ln(1+(η'H)²) − η·wd"
        unsettled = Missing(Why.NO_EQUILIBRIUM, words)
    return Law(relative_rotation(layer.step, training.gains), intrinsic, unsettled)


def equilibrium_norm(layer: Subject) -> float | Missing:
    """‖W*‖ of a layer that settles: for SGD and LARS √Σ w*² over its parts, which takes gradients."""
    return layer.formulas.norm(layer, layer.decay or 0.0) if layer.formulas is not None else SETTLES


def growth(layer: Subject, law: Law) -> float | Missing:
    """How fast ln ‖W‖ grows in a step of a layer that does not settle, or why it is not told."""
    why, formulas, rule = law.unsettled, layer.formulas, layer.training.rule
    if why is None:
        return SETTLES
    if layer.untrained or why.code not in (Why.NO_EQUILIBRIUM, Why.NOTHING_MOVES):
        return why
    if not sized(layer.norm * layer.norm):
        return NO_NORM
    if rule is not None and rule.keeps_norm:
        return why if layer.decay else 0.0
    if formulas is None or layer.decay is None or (layer.decay and not formulas.relative):
        return why
    found = formulas.growth(layer, layer.decay)
    return found if layer.step or not isinstance(found, Missing) else why


def rotation_between(before: Equilibrium | Missing, after: Equilibrium | Missing, steps: int | None) -> float | Missing:
    """The angle between two checkpoints so many steps apart, radians, by the mean of what theory has at both ends."""
    if isinstance(after, Missing):
        return after
    if isinstance(before, Missing):
        return Missing(before.code, "the learning rate of the checkpoint before is not known, or 0")
    if steps is None:
        return Missing(Why.STEP_UNKNOWN, "the step of a checkpoint is not known")
    return before.rotation_over(steps, (before.diffusion + after.diffusion) / 2.0)
