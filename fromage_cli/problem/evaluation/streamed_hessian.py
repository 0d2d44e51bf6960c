"""Hessian-vector products of the actual scalar loss, by double backward."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.budget import free_memory, resident_memory
from fromage_cli.problem.conditions.double_backward import double_backward, second_derivative_explained
from fromage_cli.problem.evaluation.backward_pass import Visitor
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.process_memory import peak_memory
from fromage_cli.shards import own_part

DOUBLE_BACKWARD_ACTIVATIONS = 3.0
"""Memory of a double-backward graph, in activations of a single one."""
Vector = Callable[[TrainableTensor, Tensor], Tensor]
"""What a tensor is multiplied by in a product, from the tensor and its gradient: of the batch, or a chunk's share."""


def visit_hessian_vector_product(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    vector: Vector,
    visit: Visitor,
    factor: Callable[[TrainableTensor], float] = lambda _: 1.0,
) -> None:
    """H v with v_l = factor_l * vector_l; `visit` sees each tensor's part as it appears, then it is freed.

    `visit` also sees the rows of H for tensors that are not among `tensors`, whose entries of v are zero. What `vector`
    returns is held until the second pass comes to it. A first share of that tensor's part appears then: together never
    more than the weights. Double backward of the scalar: forward-mode products are silently wrong through normalisation
    layers. Raises MismatchError when the loss has no second derivative.
    """

    def slope(loss: Tensor) -> Tensor:
        """The derivative of the loss along v: a scalar with its graph, but without its value.

        An operation that is differentiable only once must raise and not silently count as linear: so the factor `one`
        makes every incoming gradient require a gradient, and the second pass runs through the whole graph.
        """
        one = torch.ones((), dtype=loss.dtype, device=loss.device, requires_grad=True)
        slopes: list[Tensor] = []
        handles = [_reduced(tensor, factor(tensor), vector, slopes) for tensor in tensors]
        try:
            weights = [tensor.parameter for tensor in tensors]
            torch.autograd.grad(loss * one, weights, create_graph=True, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(slopes).sum()

    with second_derivative_explained(MismatchError), double_backward(problem.model):
        problem.visit_gradient_of(slope, visit)
    problem.evaluations.hessian_vector_products += 1


def make_product(problem: Problem) -> None:
    """Makes one Hessian-vector product, along the gradient, where the loss has a second derivative."""
    gradients = problem.base.gradients
    with suppress(MismatchError):
        visit_hessian_vector_product(
            problem, problem.receiving, lambda tensor, _: gradients[tensor.name], lambda *_: None
        )


def fit_products(problem: Problem) -> None:
    """Halves the chunks until a Hessian-vector product fits in memory as well as the base gradient.

    One product is tried, and only where three times what a gradient keeps may be more than what is free.
    """
    _ = problem.base
    kept = (peak_memory() or 0) - (resident_memory() or 0)
    free = free_memory(problem.device, problem.budget)
    scarce = bool(problem.fitting) or (free is not None and DOUBLE_BACKWARD_ACTIVATIONS * kept > free)
    if problem.ranks.any(scarce):
        fitted(problem, lambda: make_product(problem))


def _reduced(tensor: TrainableTensor, factor: float, vector: Vector, slopes: list[Tensor]) -> RemovableHandle:
    """Reduces the tensor's gradient to its slope along v as it appears: its graph stays, its memory is freed."""

    def reduce(gradient: Tensor) -> Tensor | None:
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        slopes.append(_Slope.apply(dense, vector(tensor, dense.detach()), factor))  # type: ignore[no-untyped-call]
        if gradient.is_sparse:
            return None
        return gradient.new_zeros(()).expand_as(gradient)  # takes the gradient's place in what nobody reads

    return tensor.parameter.register_hook(reduce)  # type: ignore[no-untyped-call, no-any-return]


class _Slope(torch.autograd.Function):
    """A stand-in for factor * <gradient, vector>: its derivative is factor * vector; nobody reads its value, zero."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, vector: Tensor, factor: float) -> Tensor:
        ctx.vector, ctx.factor = vector, factor
        return own_part(gradient).new_zeros(())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        vector, ctx.vector = ctx.vector, None
        return vector * (slopes[0] * ctx.factor), None, None
