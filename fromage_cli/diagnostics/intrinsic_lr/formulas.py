"""The formulas that theory has for each kind of step: where a layer settles, how it grows, how its norm goes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fromage_cli.diagnostics.intrinsic_lr.result import NO_MODEL
from fromage_cli.diagnostics.intrinsic_lr.subject import Subject, sized
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.effective_rate import NO_NORM
from fromage_cli.optimizers.rule import StepSize
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
)

ZERO_GRADIENTS = Missing(Why.ZERO_OR_NOT_FINITE, "the gradients of the batch are zero")

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


def _over_units(layer: Subject, norm: Callable[[float, float, Gains, float], float], decay: float) -> float | Missing:
    """√Σ w*² over the units, whose gradients make their norms."""
    if isinstance(layer.squares, Missing):
        return layer.squares
    gains = layer.training.gains
    return math.hypot(*(norm(layer.step, decay, gains, each) for each in layer.squares)) or ZERO_GRADIENTS


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
        lambda layer, decay: _over_units(layer, sgd_norm, decay),
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
        lambda layer, decay: _over_units(layer, lars_norm, decay),
        lambda layer, decay: lars_growth(layer.step, layer.training.gains, layer.past_gradient * decay),
        _relative_motion,
        _relative_whole,
        lambda layer, units, rate: rate * layer.training.trust * math.sqrt(layer.training.gains.squared),
        relative=True,
    ),
}


def formulas_of(layer: Subject) -> Formulas | None:
    """Those of its rule; None where it has none."""
    rule = layer.training.rule
    return FORMULAS.get(rule.step_size) if rule is not None else None
