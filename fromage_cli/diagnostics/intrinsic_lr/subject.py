"""What is known of one layer under its rule and settings, and its parts that turn by themselves."""

from dataclasses import dataclass

from fromage_cli.diagnostics.intrinsic_lr.result import NO_MODEL
from fromage_cli.diagnostics.intrinsic_lr.settings import Training
from fromage_cli.missing import Missing
from fromage_cli.optimizers.rule import RULES

SMALLEST = 1e-150
"""Of ‖w‖², whose own square is still more than zero."""


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


def sized(square: float) -> bool:
    """Whether ‖w‖² is one to divide by: neither zero nor without bound."""
    return SMALLEST < square < 1.0 / SMALLEST
