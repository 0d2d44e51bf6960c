"""How far a measurement of curvature goes, and what that is expected to cost."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import PRODUCT, KeptForBackward, measure_cost, timed
from fromage_cli.probes.curvature.batch_sharpness import gradient_curvature, training_batches
from fromage_cli.probes.curvature.iteration_cost import iteration_cost
from fromage_cli.probes.curvature.quadratic_model import simulate_training
from fromage_cli.probes.lines.draws import gradients_of_draws
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.training import training
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, has_gauss_newton
from fromage_cli.problem.evaluation.output_expansion import EXPANSION_PRODUCTS, expand_outputs
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.process_memory import peak_memory
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
    expansions = EXPANSION_PRODUCTS * _line_is_measured(problem, optimizer)
    expansions += (EXPANSION_PRODUCTS + 1.0) * _simulated_steps(problem, optimizer, request)
    operators = _operators(problem, tensors, optimizer, request)
    return round(TYPICAL_PRODUCTS * operators + expansions) + (DRAWS if problem.draws_noise else 0)


def expected_work(
    problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request
) -> float:
    """What the progress bar counts: gradients, and what takes as long."""
    products = expected_products(problem, tensors, optimizer, request) + 1
    return PRODUCT * products + 2 + FORWARDS / 3 + gradients_of_draws(problem)


def estimate(problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request) -> Estimate:
    """The products, the base gradient, those of the small batches with a product of all rows, and forward passes.

    An iteration of Lanczos, a simulated step and a small batch are timed as they are then computed. Most memory is held
    by the graphs of the expansion, where there is one; it is no less than these trials have taken.
    """
    cost, iteration = measure_cost(problem, products=True), iteration_cost(problem, tensors)
    products = expected_products(problem, tensors, optimizer, request) + 1
    gradients = 2 + FORWARDS / 3 + gradients_of_draws(problem)
    iterated = TYPICAL_PRODUCTS * _operators(problem, tensors, optimizer, request)
    expansion, kept = _expansion(problem, tensors) if _line_is_measured(problem, optimizer) else (0.0, 0)
    cost = replace(cost, product_activations=max(cost.product_activations, kept))
    beside = _simulation_seconds(problem, tensors, optimizer, request) + _batches_seconds(problem, tensors, request)
    if has_gauss_newton(problem):
        beside += timed(problem, lambda: _make_graph(problem, tensors))
    return Estimate(
        gradients=gradients + cost.equivalent(products),
        bytes=max(peak_memory() or 0, cost.memory(copies=TYPICAL_PRODUCTS * request.count + 4.0, products=True)),
        seconds=cost.time(1 + FORWARDS / 3 + gradients_of_draws(problem))
        + iteration.time(iterated)
        + expansion
        + beside,
    )


def _operators(problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request) -> int:
    """Eigenvalues that are looked for, each by iterations of its own."""
    blocks = sum(tensor.is_layer for tensor in tensors) if request.blocks else 0
    return request.count + has_gauss_newton(problem) + optimizer.adaptive + blocks


def _line_is_measured(problem: Problem, optimizer: Optimizer) -> bool:
    """Whether the quadratic model is measured along the next update."""
    return has_gauss_newton(problem) and optimizer.name is not None


def _simulated_steps(problem: Problem, optimizer: Optimizer, request: Request) -> int:
    """Of training in the quadratic model; none where no learning rate is known."""
    told = _line_is_measured(problem, optimizer) and optimizer.learning_rate is not None
    return request.simulated_steps if told else 0


def _expansion(problem: Problem, tensors: Sequence[TrainableTensor]) -> tuple[float, int]:
    """Seconds of the outputs' expansion along the gradient, and the bytes that its graphs keep."""
    kept, direction = KeptForBackward(problem), [problem.base.gradients[tensor.name] for tensor in tensors]
    with suppress(MismatchError, NumericalError), kept.counted():
        return timed(problem, lambda: expand_outputs(problem, WeightSpace(tensors), direction)), kept.most
    return 0.0, kept.most


def _simulation_seconds(
    problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request
) -> float:
    """Of simulated training: PyTorch's first optimizer, which takes its time to get ready, and steps as the first."""
    steps, rate = _simulated_steps(problem, optimizer, request), optimizer.learning_rate
    if not steps or rate is None:
        return 0.0
    matched, space = MatchedState(problem, optimizer), WeightSpace(tensors)
    with suppress(MismatchError, NumericalError):
        with training(matched) as run:
            ready = timed(problem, lambda: run.start(rate))
        return ready + steps * timed(problem, lambda: simulate_training(matched, space, steps=1))
    return 0.0


def _make_graph(problem: Problem, tensors: Sequence[TrainableTensor]) -> None:
    """Prepares products with the Gauss-Newton matrix: the first time PyTorch loads what it differentiates with."""
    with suppress(MismatchError, NumericalError), gauss_newton(problem, WeightSpace(tensors)):
        pass


def _batches_seconds(problem: Problem, tensors: Sequence[TrainableTensor], request: Request) -> float:
    """Of the curvature along the gradients of small batches, told from the first of them."""
    parts = training_batches(problem, request.batch_rows)
    with suppress(MismatchError, NumericalError):
        return len(parts) * timed(problem, lambda: gradient_curvature(problem, WeightSpace(tensors), parts[:1]))
    return 0.0
