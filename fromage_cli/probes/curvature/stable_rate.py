"""The largest learning rate that is stable on the quadratic part of the loss, by the optimizer's own threshold.

Source: Cohen et al., *Gradient descent on neural networks typically occurs at the edge of stability*, ICLR 2021, and
*Adaptive gradient methods at the edge of stability*, 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.errors import ResourceError
from fromage_cli.probes.curvature.lanczos import Operator, largest_eigenvalues
from fromage_cli.probes.optimizer_step.next_step import decays, preconditioner
from fromage_cli.probes.optimizer_step.optimizer import Optimizer
from fromage_cli.probes.optimizer_step.update_rules import Memory
from fromage_cli.problem.curvature import WeightSpace, hessian
from fromage_cli.problem.layers import TrainableTensor
from fromage_cli.problem.problem import Problem

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
        return StableRate(None, optimizer.no_threshold or "the optimizer has no threshold")
    space = WeightSpace(tensors)
    scale, source = None, "the Hessian's largest eigenvalue"
    if optimizer.adaptive:
        scale, source = _conditioning(problem, space, optimizer, state, memory)
    added = _coupled_decay(problem, space, optimizer, state)
    with hessian(problem, space) as product:
        found = largest_eigenvalues(
            _conditioned(product, scale, added),
            space.flat(space.weights),
            tolerance=TOLERANCE,
            max_products=MAX_PRODUCTS,
            seed=problem.seed,
        )
    if not found.eigenvalues:
        return StableRate(None, "a limit was reached before", found.stopped)
    value = found.eigenvalues[0].value
    rate = optimizer.stable_rate(value)
    if rate is None:
        return StableRate(None, f"λ {value:.3g}; {source} bounds no rate", found.stopped)
    least = "" if found.converged else "at least "
    return StableRate(rate, f"λ {least}{value:.3g}; {source}, stable where the loss is quadratic", found.stopped)


def _conditioning(
    problem: Problem,
    space: WeightSpace,
    optimizer: Optimizer,
    state: OptimizerState | None,
    memory: Mapping[str, Memory],
) -> tuple[Tensor | None, str]:
    """P^(-1/2) as a vector [n], from Adam's state or from what stands in for it."""
    matrix, source = preconditioner(problem, optimizer, state), "the preconditioned Hessian's largest eigenvalue"
    if matrix is None:
        matrix = {n: k.square.sqrt().add_(optimizer.epsilon) for n, k in memory.items() if k.square is not None}
        source += " (second moments from minibatches)"
    return space.flat([matrix[tensor.name] for tensor in space.tensors]).rsqrt_(), source


def _coupled_decay(
    problem: Problem, space: WeightSpace, optimizer: Optimizer, state: OptimizerState | None
) -> Tensor | None:
    if not optimizer.coupled_decay:
        return None
    decay = decays(problem, optimizer, state)
    return space.flat([torch.full_like(t.parameter, decay.get(t.name, 0.0)) for t in space.tensors])


def _conditioned(product: Operator, scale: Tensor | None, added: Tensor | None) -> Operator:
    def apply(vector: Tensor) -> Tensor:
        inner = vector if scale is None else scale * vector
        result = product(inner) if added is None else product(inner) + added * inner
        return result if scale is None else scale * result

    return apply
