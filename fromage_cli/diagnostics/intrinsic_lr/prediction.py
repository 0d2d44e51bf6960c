"""What theory predicts of one layer under its rule and settings, or why it predicts nothing."""

from dataclasses import dataclass, replace

from fromage_cli.diagnostics.intrinsic_lr.formulas import formulas_of
from fromage_cli.diagnostics.intrinsic_lr.subject import Subject, sized
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.effective_rate import FOREIGN_DECAY, NO_NORM
from fromage_cli.theory.equilibrium import Equilibrium, relative_rotation
from fromage_cli.theory.relaxation import times_until_near

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


@dataclass(frozen=True)
class Prediction:
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


def predict(layer: Subject) -> Prediction:
    """What theory says of a layer with these settings, or why it says nothing."""
    if layer.untrained is not None:
        return Prediction(layer.untrained, layer.untrained, layer.untrained)
    if not layer.invariant:
        return Prediction(NOT_INVARIANT, predict(replace(layer, invariant=True)).intrinsic, NOT_INVARIANT)
    training, rule, decay, formulas = layer.training, layer.training.rule, layer.decay, formulas_of(layer)
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
        return Prediction(known[0], known[0], known[0])
    if decay and not (relative and training.decoupled):
        found = formulas.equilibrium(layer, decay)
        decayed = f"what {rule.title} decays in a step depends on the size of the gradient"
        return Prediction(found, Missing(Why.NO_FORMULA, decayed) if relative else found.diffusion)
    if not relative:
        return Prediction(WITHOUT_DECAY, 0.0, WITHOUT_DECAY)
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
    return Prediction(relative_rotation(layer.step, training.gains), intrinsic, unsettled)


def equilibrium_norm(layer: Subject) -> float | Missing:
    """‖W*‖ of a layer that settles: for SGD and LARS √Σ w*² over its parts, which takes gradients."""
    formulas = formulas_of(layer)
    return SETTLES if formulas is None else formulas.norm(layer, layer.decay or 0.0)


def growth(layer: Subject, predicted: Prediction) -> float | Missing:
    """Growth of ln ‖W‖ per step of a layer that does not settle, or why it is not known."""
    why, formulas, rule = predicted.unsettled, formulas_of(layer), layer.training.rule
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
