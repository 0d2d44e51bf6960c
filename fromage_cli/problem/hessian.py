"""Hessian-vector products of the actual scalar loss, by double backward."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fromage_cli.errors import MismatchError
from fromage_cli.problem.evaluation import twice_differentiable
from fromage_cli.problem.problem import Problem


def hessian_vector_product(problem: Problem, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """H v over the named tensors, one tensor of the same shape for each; others are held fixed.

    Double backward of the scalar: forward-mode products are silently wrong through normalisation layers.
    Raises MismatchError when the loss has no second derivative.
    """
    problem.budget.check()
    tensors = [tensor for tensor in problem.trainable if tensor.name in vector]
    weights = [tensor.parameter for tensor in tensors]
    problem.drop_gradients()
    total, count = [torch.zeros_like(weight) for weight in weights], 0.0
    for chunk in problem._chunks():
        with problem.evaluation(), twice_differentiable():
            terms = problem.loss(problem.model, chunk)
            count += terms.count
            parts = _product(terms.total, weights, [vector[tensor.name] for tensor in tensors])
            torch._foreach_add_(total, parts)
        problem.drop_gradients()
    problem.evaluations.hessian_vector_products += 1
    return {tensor.name: product / count for tensor, product in zip(tensors, total, strict=True)}


def _product(loss: Tensor, weights: list[torch.nn.Parameter], vector: list[Tensor]) -> list[Tensor]:
    """H v of a loss by two backward passes.

    An operation that is differentiable only once must raise and not silently count as linear: so the factor `one`
    makes every incoming gradient require a gradient, and the second pass runs through the whole graph.
    """
    try:
        one = torch.ones((), dtype=loss.dtype, device=loss.device, requires_grad=True)
        gradients = torch.autograd.grad(loss * one, weights, create_graph=True, materialize_grads=True)
        slope = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        slope.backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error):
            raise
        raise MismatchError(
            f"The loss has no second derivative: {str(error).splitlines()[0]}",
            "An operation of the model supports only one backward pass.",
        ) from error
