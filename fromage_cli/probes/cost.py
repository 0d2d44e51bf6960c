"""What one gradient costs on this machine; commands state their cost beforehand in these."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fromage_cli.problem.conditions.budget import resident_memory
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.problem import Evaluations, Problem
from fromage_cli.problem.evaluation.streamed_hessian import DOUBLE_BACKWARD_ACTIVATIONS, make_product
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.process_memory import peak_memory
from fromage_cli.theory.accumulation import distance

FORWARD, PRODUCT = 1.0 / 3.0, 7.0 / 3.0
"""What a forward pass and a Hessian-vector product cost, in gradients."""


def gradients(evaluations: Evaluations) -> float:
    """What was computed, in gradients of all rows."""
    products = evaluations.hessian_vector_products
    return evaluations.gradients + FORWARD * evaluations.forwards + PRODUCT * products


@dataclass(frozen=True)
class Cost:
    """What a gradient of the whole batch costs."""

    seconds: float
    """Of the faster of two."""
    loading: float
    """Seconds from the start of the process to the first, plus what the first of a kind takes longer."""
    product_seconds: float
    """Of the faster of two Hessian-vector products; 0 where none was asked for or the loss has no second derivative."""
    resident: int
    """Bytes in use by the process, or on the accelerator, once the problem is loaded and every kernel was used."""
    weights: int
    """Bytes of the tensors that receive a gradient."""
    activations: int
    """Bytes that the forward pass of a chunk keeps for its backward pass."""

    def time(self, gradients: float, products: float = 0.0) -> float:
        """Seconds for so many gradients and Hessian-vector products, loading included."""
        return self.loading + self.seconds * gradients + self.product_seconds * products

    def equivalent(self, products: float) -> float:
        """The gradients that take as long as so many Hessian-vector products."""
        return self.product_seconds * products / self.seconds

    def memory(self, copies: float, products: bool = False) -> int:
        """Peak bytes with so many copies of the weights beside them, with or without double backward."""
        graph = DOUBLE_BACKWARD_ACTIVATIONS if products else 1.0
        return int(self.resident + copies * self.weights + graph * self.activations)


def measure_cost(problem: Problem, products: bool = False) -> Cost:
    """Times two gradients, counting what the first one keeps, and two Hessian-vector products if asked to."""
    # what the processor did counts from the start of the process, before there was a budget, and no waiting for files
    resident, loading = peak_memory() or 0, max(time.monotonic() - problem.budget.started, time.process_time())
    earlier, known = resident_memory() or 0, "base" in problem.__dict__
    kept: dict[int, int] = {}
    weights = {tensor.parameter.untyped_storage().data_ptr() for tensor in problem.trainable}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def first_gradient() -> float:
        kept.clear()  # of a pass that did not fit
        return problem.visit_gradient(_ignore)

    with saved_tensors_hooks(count, lambda tensor: tensor):
        gradients = [timed(problem, lambda: fitted(problem, first_gradient))]
    gradients.append(timed(problem, lambda: problem.visit_gradient(_ignore)))
    if products and not known:
        gradients.append(timed(problem, lambda: problem.base))
    made = problem.evaluations.hessian_vector_products
    again = [timed(problem, lambda: make_product(problem)) for _ in range(2)] if products else [0.0]
    again = again if problem.evaluations.hessian_vector_products > made else [0.0]
    loading += gradients[0] - min(gradients) + again[0] - min(again)
    size = sum(tensor.parameter.nbytes for tensor in problem.receiving)
    loaded = (resident_memory() or 0) - earlier - (0 if known else size)
    return Cost(min(gradients), loading, min(again), resident + max(0, loaded), size, sum(kept.values()))


def point_seconds(problem: Problem) -> float:
    """Seconds of a point on a line: weights are written, and each gradient is held against that of the base."""
    base, tensors = problem.base.gradients, problem.receiving

    def compare(tensor: TrainableTensor, gradient: Tensor) -> None:
        distance(gradient, base[tensor.name])

    with problem.displaced(tensors) as origin, problem.steady():

        def visit() -> None:
            for tensor in tensors:
                torch.add(origin[tensor.name], base[tensor.name], alpha=0.0, out=tensor.parameter.data)
            problem.visit_gradient(compare)

        return min(timed(problem, visit) for _ in range(2))


def _ignore(*_: object) -> None:
    """Keeps nothing."""


def timed(problem: Problem, run: Callable[[], object]) -> float:
    """Runs it and gives the seconds until it is done, also on an accelerator."""
    started = time.perf_counter()
    run()
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)
    return time.perf_counter() - started
