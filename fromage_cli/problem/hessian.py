"""Hessian-vector products of the actual scalar loss, by double backward."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fromage_cli.errors import MismatchError
from fromage_cli.problem.double_backward import double_backward, without_second_derivative
from fromage_cli.problem.layers import TrainableTensor
from fromage_cli.problem.named_code import out_of_memory
from fromage_cli.problem.problem import Problem
from fromage_cli.problem.sweep import Visitor


def hessian_vector_product(problem: Problem, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """H v over the named tensors, one tensor of the same shape for each; others are held fixed.

    Raises MismatchError when the loss has no second derivative.
    """
    tensors = [tensor for tensor in problem.trainable if tensor.name in vector]
    product = {tensor.name: torch.zeros_like(tensor.parameter) for tensor in tensors}

    def keep(tensor: TrainableTensor, part: Tensor) -> None:
        if tensor.name in product:
            product[tensor.name] = part

    visit_hessian_vector_product(problem, tensors, lambda tensor: vector[tensor.name], keep)
    return product


def visit_hessian_vector_product(
    problem: Problem, tensors: Sequence[TrainableTensor], vector: Callable[[TrainableTensor], Tensor], visit: Visitor
) -> None:
    """H v with v given tensor by tensor; `visit` sees each tensor's part as it appears, then it is freed.

    `visit` also sees the rows of H for tensors that are not among `tensors`, whose entries of v are zero.
    Double backward of the scalar: forward-mode products are silently wrong through normalisation layers.
    Raises MismatchError when the loss has no second derivative.
    """

    def slope(loss: Tensor) -> Tensor:
        """The derivative of the loss along v, a scalar with its graph.

        An operation that is differentiable only once must raise and not silently count as linear: so the factor `one`
        makes every incoming gradient require a gradient, and the second pass runs through the whole graph.
        """
        one = torch.ones((), dtype=loss.dtype, device=loss.device, requires_grad=True)
        weights = [tensor.parameter for tensor in tensors]
        gradients = torch.autograd.grad(loss * one, weights, create_graph=True, materialize_grads=True)
        return torch.stack([(g * vector(t)).sum() for t, g in zip(tensors, gradients, strict=True)]).sum()

    try:
        with double_backward(problem.model):
            problem.visit_gradient_of(slope, visit)
    except (MismatchError, RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        raise without_second_derivative(error) from error
    problem.evaluations.hessian_vector_products += 1
