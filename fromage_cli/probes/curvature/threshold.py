"""The largest curvature at which an optimizer is stable, and its largest stable rate for the curvature here.

Sources: Cohen et al., *Gradient descent on neural networks typically occurs at the edge of stability*, ICLR 2021;
Cohen et al., *Adaptive gradient methods at the edge of stability*, 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fromage_cli.missing import (
    LEARNING_RATE_UNKNOWN,
    LIMIT_REACHED,
    OPTIMIZER_UNKNOWN,
    Basis,
    Interrupted,
    Missing,
    Why,
    found_of,
)
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.lanczos import largest_eigenvalues
from fromage_cli.probes.curvature.preconditioned_hessian import gradient_of, precondition
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.stability import (
    LARGEST_MOMENTUM,
    adam_rate,
    adam_threshold,
    momentum_rate,
    momentum_threshold,
    nesterov_rate,
    nesterov_threshold,
)

MAX_PRODUCTS = 20
"""Hessian-vector products at most."""
TOLERANCE = 1e-2
"""Residual / eigenvalue: what the rate needs."""


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


def optimizer_kind(optimizer: Optimizer) -> str:
    """What the tables of regimes call an optimizer; `other momentum` beyond the settings that were measured."""
    if optimizer.adaptive:
        return "adaptive"
    if optimizer.momentum > LARGEST_MOMENTUM or (optimizer.momentum and optimizer.dampening):
        return "other momentum"
    return "descent" if not optimizer.momentum else "nesterov" if optimizer.nesterov else "momentum"


def no_threshold(optimizer: Optimizer) -> Missing | None:
    """Why no rate, or not this one, has a threshold; None where one has."""
    rule, rate = optimizer.rule, optimizer.learning_rate
    if rule is None:
        return OPTIMIZER_UNKNOWN
    if rule.threshold is None:
        return Missing(Why.NO_FORMULA, rule.without["threshold"])
    if rule.adaptive and rule.decay == "decoupled" and rate is not None and rate * optimizer.weight_decay >= 2.0:
        words = "weight decay alone makes it unstable: learning rate × direct weight decay is 2 or more"
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


@dataclass(frozen=True)
class StableRate:
    """The rate, and what it rests on."""

    learning_rate: float | Missing
    words: Basis
    """What it rests on, or why there is none."""


def stable_rate(
    matched: MatchedState,
    tensors: Sequence[TrainableTensor],
    estimates: Mapping[str, MomentEstimates],
    source: str = "",
) -> StableRate | Interrupted[StableRate]:
    """Finds the rate at which the largest curvature over the tensors equals the optimizer's threshold.

    `estimates` stand in for Adam's second moments where the state holds none; `source`: words on where they come from.
    Costs at most 20 Hessian-vector products.
    Raises MismatchError where the loss has no second derivative, NumericalError where a product is not finite.
    """
    problem, optimizer = matched.problem, matched.optimizer
    none = no_threshold(replace(optimizer, learning_rate=None))
    if none is not None:
        return StableRate(none, Basis("no threshold", none.words))
    space = WeightSpace(tensors)
    preconditioning = precondition(matched, space, estimates)
    if preconditioning is None:
        words = Basis("the state lacks Adam's second moments for some tensors")
        return StableRate(Missing(Why.NO_STATE, words), words)
    if optimizer.adaptive:
        moments = f" (second moments from {source})" if preconditioning.from_minibatches else ""
        source = f"the preconditioned Hessian's largest eigenvalue{moments}"
    else:
        rates = ", with the rates of the groups" if preconditioning.scale is not None else ""
        source = f"the Hessian's largest eigenvalue{rates}"
    start = gradient_of(problem, space)
    if preconditioning.scale is not None:
        start.mul_(preconditioning.scale)
    with preconditioning.operator(problem, space) as product:
        found, limit = found_of(
            largest_eigenvalues(
                product, start, tolerance=TOLERANCE, max_products=MAX_PRODUCTS, seed=problem.seed, draw=space.draw
            )
        )
    rate: float | Missing = LIMIT_REACHED
    words = Basis(LIMIT_REACHED.words)
    if found.eigenvalues:
        value = found.eigenvalues[0].value
        limit_rate = rate_for(optimizer, value)
        least = "" if found.converged else "at least "
        words = Basis(f"λ {least}{value:.3g}", f"{source}, stable where the loss is quadratic")
        if limit_rate is None:
            words = Basis(f"λ {value:.3g}", f"{source} sets no highest rate")
        rate = Missing(Why.NO_FORMULA, words) if limit_rate is None else limit_rate
    stable = StableRate(rate, words)
    return stable if limit is None else Interrupted(stable, limit)
