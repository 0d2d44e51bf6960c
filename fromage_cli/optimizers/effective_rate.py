"""The learning rate that a scale-invariant layer sees, which depends on its norm."""

import math

from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.rule import RULES

NO_NORM = Missing(Why.ZERO_OR_NOT_FINITE, "the norm is zero or not finite")
FOREIGN_DECAY = Missing(
    Why.NO_FORMULA,
    "Fromage has no weight decay of its own, and it is not known how the given one acts",
)


def rate_power(name: str | None) -> int | None:
    """The power of ‖W‖ by which the rate of an optimizer of that name is divided; None where no power does."""
    rule = RULES.get(name or "")
    return None if rule is None else rule.rate_power


def effective_rate(
    name: str | None, rate: float | None, norm: float, trust_coefficient: float = 1.0, *, clipped: bool = False
) -> float | Missing:
    """SGD η/‖W‖², Adam, AdamW, Lion and Muon η/‖W‖, the relative step of the others; or why it is not known.

    `trust_coefficient`: what LARS multiplies its rate by. `clipped`: whether its or LAMB's trust ratio is clipped, so
    that the step is not relative.
    """
    if name is None:
        return OPTIMIZER_UNKNOWN
    if rate is None:
        return LEARNING_RATE_UNKNOWN
    power = rate_power(name)
    if clipped or power is None:
        return Missing(
            Why.NO_FORMULA, f"it is not defined for {name}{' with a clipped trust ratio' if clipped else ''}"
        )
    if power and not 0.0 < norm < math.inf:
        return NO_NORM
    return float(rate * trust_coefficient / norm**power)
