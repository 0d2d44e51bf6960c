"""How far a measurement of curvature goes, and what that is expected to cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import measure_cost
from fromage_cli.probes.lines.draws import gradients_of_draws
from fromage_cli.problem.evaluation.curvature_operators import has_gauss_newton
from fromage_cli.problem.evaluation.output_expansion import EXPANSION_PRODUCTS
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.terminal.answer import Estimate

TYPICAL_PRODUCTS = 16
"""Hessian-vector products for one eigenvalue to a residual of 1e-3."""
DRAWS = 3
"""Other draws of a network's random numbers under which the curvature is taken: it costs a product for each."""
FORWARDS = 6 + 3 + 18
"""For the critical rate, its error, and the loss beside the quadratic model."""


@dataclass(frozen=True)
class Request:
    """How far the iterations go, and what is measured beside the eigenvalues."""

    count: int = 1
    """Eigenvalues of the Hessian."""
    tolerance: float = 1e-3
    """Residual / eigenvalue at which they stop."""
    max_products: int = 100
    """Products for each operator."""
    batch_rows: int | None = None
    """Rows of a training batch; None takes the batches as they are, or eighths of the only one."""
    simulated_steps: int = 0
    """Of training in the quadratic model."""
    blocks: bool = False
    """Whether each layer's own block of the Hessian is measured."""


def expected_products(
    problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request
) -> int:
    """Hessian-vector products that are to be expected, each step of the progress bar one of them."""
    known = has_gauss_newton(problem)
    operators = request.count + known + optimizer.adaptive
    operators += sum(tensor.is_layer for tensor in tensors) if request.blocks else 0
    line = known and optimizer.name is not None
    simulated = request.simulated_steps if line and optimizer.learning_rate is not None else 0
    expansions = EXPANSION_PRODUCTS * line + (EXPANSION_PRODUCTS + 1.0) * simulated
    return round(TYPICAL_PRODUCTS * operators + expansions) + (DRAWS if problem.draws_noise else 0)


def estimate(problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request) -> Estimate:
    """The products, the base gradient, those of the small batches with a product of all rows, and forward passes."""
    cost = measure_cost(problem, products=True)
    products = expected_products(problem, tensors, optimizer, request) + 1
    gradients = 2 + FORWARDS / 3 + gradients_of_draws(problem)
    return Estimate(
        gradients=gradients + cost.equivalent(products),
        bytes=cost.memory(copies=TYPICAL_PRODUCTS * request.count + 4.0, products=True),
        seconds=cost.time(gradients, products=products),
    )
