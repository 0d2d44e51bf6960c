"""The largest curvature at which an optimizer is stable, and the largest rate at which it is for a curvature."""

from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.theory.stability import (
    adam_rate,
    adam_threshold,
    momentum_rate,
    momentum_threshold,
    nesterov_rate,
    nesterov_threshold,
)


def threshold_of(optimizer: Optimizer) -> float | Missing:
    """The largest curvature at which its updates are stable."""
    none, rate = no_threshold(optimizer), optimizer.learning_rate
    if none is not None or rate is None:
        return none or LEARNING_RATE_UNKNOWN
    if optimizer.adaptive:
        return adam_threshold(rate, optimizer.betas[0], optimizer.weight_decay - optimizer.coupled_decay)
    if optimizer.nesterov:
        return nesterov_threshold(rate, optimizer.momentum)
    return momentum_threshold(rate, optimizer.momentum, optimizer.dampening)


def no_threshold(optimizer: Optimizer) -> Missing | None:
    """Why no rate, or not this one, has a threshold; None where one has."""
    rule, rate = optimizer.rule, optimizer.learning_rate
    if rule is None:
        return OPTIMIZER_UNKNOWN
    if rule.threshold is None:
        return Missing(Why.NO_FORMULA, rule.without["threshold"])
    if rule.adaptive and rule.decay == "decoupled" and rate is not None and rate * optimizer.weight_decay >= 2.0:
        words = "decay alone is unstable: the rate times the decoupled weight decay is 2 or more"
        return Missing(Why.NO_FORMULA, words)
    return None


def rate_for(optimizer: Optimizer, curvature: float) -> float | None:
    """The largest learning rate that is stable at a curvature above 0, which includes coupled decay.

    For Adam, of the preconditioned Hessian. None where there is no threshold.
    """
    if not curvature > 0.0 or optimizer.rule is None or optimizer.rule.threshold is None:
        return None
    if optimizer.adaptive:
        return adam_rate(curvature, optimizer.betas[0], optimizer.weight_decay - optimizer.coupled_decay)
    if optimizer.nesterov:
        return nesterov_rate(curvature, optimizer.momentum)
    return momentum_rate(curvature, optimizer.momentum, optimizer.dampening)
