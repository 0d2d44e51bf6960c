"""The largest learning rate that is stable on the quadratic part of the loss, by the optimizer's own threshold.

Source: Cohen et al., *Gradient descent on neural networks typically occurs at the edge of stability*, ICLR 2021, and
*Adaptive gradient methods at the edge of stability*, 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.errors import ResourceError
from fromage_cli.probes.curvature.lanczos import largest_eigenvalues
from fromage_cli.probes.curvature.preconditioned_hessian import Conditioning, condition
from fromage_cli.probes.curvature.threshold import no_threshold, rate_for
from fromage_cli.probes.optimizer_step.optimizer import Optimizer
from fromage_cli.probes.optimizer_step.update_rules import Memory
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

MAX_PRODUCTS = 20
TOLERANCE = 1e-2
"""Residual / eigenvalue: what the rate needs."""


@dataclass(frozen=True)
class StableRate:
    """The rate, and what it rests on."""

    learning_rate: float | None
    words: str
    stopped: ResourceError | None = None


def stable_rate(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    memory: Mapping[str, Memory],
) -> StableRate:
    """The rate at which the largest curvature over the tensors equals what the optimizer bears.

    `memory` stands in for Adam's second moments where the state holds none. Costs at most 20 Hessian-vector products.
    Raises MismatchError where the loss has no second derivative, NumericalError where a product is not finite.
    """
    if optimizer.name not in ("sgd", "adam", "adamw"):
        return StableRate(None, no_threshold(optimizer) or "the optimizer has no threshold")
    space = WeightSpace(tensors)
    felt = condition(problem, space, optimizer, state, memory)
    if felt is None:
        return StableRate(None, "the state holds no second moments of Adam for some tensors")
    source = _source(optimizer, felt)
    with felt.operator(problem, space) as product:
        found = largest_eigenvalues(
            product,
            space.flat(space.weights),
            tolerance=TOLERANCE,
            max_products=MAX_PRODUCTS,
            seed=problem.seed,
        )
    if not found.eigenvalues:
        return StableRate(None, "a limit was reached before", found.stopped)
    value = found.eigenvalues[0].value
    rate = rate_for(optimizer, value)
    if rate is None:
        return StableRate(None, f"λ {value:.3g}; {source} bounds no rate", found.stopped)
    least = "" if found.converged else "at least "
    return StableRate(rate, f"λ {least}{value:.3g}; {source}, stable where the loss is quadratic", found.stopped)


def _source(optimizer: Optimizer, felt: Conditioning) -> str:
    """What the largest eigenvalue is of."""
    if optimizer.adaptive:
        moments = " (second moments from minibatches)" if felt.from_minibatches else ""
        return f"the preconditioned Hessian's largest eigenvalue{moments}"
    return "the Hessian's largest eigenvalue" + (", groups' rates counted in" if felt.scale is not None else "")
