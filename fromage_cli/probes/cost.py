"""What one gradient costs on this machine: the unit in which a command's cost is told beforehand."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fromage_cli.problem.budget import peak_memory
from fromage_cli.problem.problem import Problem

HESSIAN_VECTOR_PRODUCT = 2.3
"""Gradients that take as long as one product by double backward."""
DOUBLE_BACKWARD_ACTIVATIONS = 3.0
"""Memory of a double-backward graph, in activations of a single one."""


@dataclass(frozen=True)
class Cost:
    """The cost of a gradient of the whole batch."""

    seconds: float
    """Of the faster of two."""
    loading: float
    """Seconds that went by before the first."""
    resident: int
    """Bytes in use by the process, or on the accelerator, once the problem is loaded."""
    weights: int
    """Bytes of the tensors that receive a gradient."""
    activations: int
    """Bytes that the forward pass of a chunk keeps for its backward pass."""

    def time(self, gradients: float, products: float = 0.0) -> float:
        """Seconds for so many gradients and Hessian-vector products, loading included."""
        return self.loading + self.seconds * (gradients + HESSIAN_VECTOR_PRODUCT * products)

    def memory(self, copies: float, products: bool = False) -> int:
        """Peak bytes with so many copies of the weights beside them, with or without double backward."""
        graph = DOUBLE_BACKWARD_ACTIVATIONS if products else 1.0
        return int(self.resident + copies * self.weights + graph * self.activations)


def measure_cost(problem: Problem) -> Cost:
    """Times two gradients, counting what the first one keeps."""
    resident, loading = peak_memory(), time.monotonic() - problem.budget.started
    kept: dict[int, int] = {}
    weights = {tensor.parameter.untyped_storage().data_ptr() for tensor in problem.trainable}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        first = _timed(problem)
    second = _timed(problem)
    size = sum(tensor.parameter.nbytes for tensor in problem.receiving)
    return Cost(min(first, second), loading, resident, size, sum(kept.values()))


def _timed(problem: Problem) -> float:
    started = time.perf_counter()
    problem.visit_gradient(lambda *_: None)
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)
    return time.perf_counter() - started
