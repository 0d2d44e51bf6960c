"""The largest curvature at which an optimizer is stable, and the largest rate at which it is for a curvature."""

from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.theory.stability import (
    adam_rate,
    adam_threshold,
    momentum_rate,
    momentum_threshold,
    nesterov_rate,
    nesterov_threshold,
)


def threshold_of(optimizer: Optimizer) -> float | None:
    """The largest curvature at which its updates are stable; None for the reason that `no_threshold` gives."""
    rate = optimizer.learning_rate
    if rate is None or no_threshold(optimizer) is not None:
        return None
    if optimizer.adaptive:
        return adam_threshold(rate, optimizer.betas[0], optimizer.weight_decay - optimizer.coupled_decay)
    if optimizer.nesterov:
        return nesterov_threshold(rate, optimizer.momentum)
    return momentum_threshold(rate, optimizer.momentum, optimizer.dampening)


def no_threshold(optimizer: Optimizer) -> str | None:
    """Why there is no threshold; None where there is one."""
    rule, rate = optimizer.rule, optimizer.learning_rate
    if rule is None:
        return "the optimizer is not known"
    if rule.threshold is None:
        return rule.without["threshold"]
    if rate is None:
        return "the learning rate is not known"
    if rule.adaptive and rule.decay == "decoupled" and rate * optimizer.weight_decay >= 2.0:
        return "decay alone is unstable: the rate times the decoupled weight decay is 2 or more"
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
