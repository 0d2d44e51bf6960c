"""The model's output to second order in the weights: f + J d + d^T H_f d / 2, for each sample and each output.

Reverse mode alone: kinks count as the derivative does, and normalisation layers are right. Nested forward mode is
silently wrong there. With a cotangent u, s(w, u) = u . f(w) gives J d = d/du [d . ds/dw] and d^T H_f d = d/du of its
second derivative along d; both are linear in u. Source: Zhu et al., *Quadratic models for understanding catapult
dynamics*, ICLR 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, along, twice_differentiated
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import weighed
from fromage_cli.problem.losses.supervised_losses import SupervisedLoss, predict

EXPANSION_PRODUCTS = 2.0
"""Hessian-vector products that one expansion along a direction counts as: it takes 1.4 to 2.8 of them."""


@dataclass(frozen=True)
class Expansion:
    """The output of one chunk along a direction."""

    output: Tensor
    """f at the weights, [rows, …]."""
    first: Tensor
    """J d, of the same shape."""
    second: Tensor
    """d^T H_f d, of the same shape."""
    target: Tensor
    batch: Batch
    """The rows."""

    def at(self, distance: float = 1.0) -> Tensor:
        """The output at w + distance * d."""
        return self.output + distance * self.first + 0.5 * distance**2 * self.second


def expand_outputs(problem: Problem, space: WeightSpace, direction: Sequence[Tensor]) -> list[Expansion]:
    """The expansion of every chunk of this rank's rows along a direction, tensors shaped as the weights.

    For losses that are a known function of the output. Raises MismatchError without a second derivative.
    """
    problem.budget.check()
    found = []
    for chunk in problem.own_chunks():
        with twice_differentiated(problem, chunk):
            found.append(_expansion(chunk, *predict(problem.model, chunk), space.weights, direction))
    problem.evaluations.hessian_vector_products += EXPANSION_PRODUCTS
    return found


def model_loss(problem: Problem, expansions: Sequence[Expansion], distance: float = 1.0) -> float:
    """The loss of the expanded outputs: no pass through the model."""
    loss = problem.loss
    assert isinstance(loss, SupervisedLoss)
    with torch.no_grad():
        terms = [weighed(loss.terms(part.at(distance), part.target), part.batch) for part in expansions]
    total, count = problem.ranks.sums([sum(float(term.total) for term in terms), sum(term.count for term in terms)])
    return total / count


def model_gradient(problem: Problem, space: WeightSpace, displacement: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Loss and gradient of the quadratic model at w + displacement; for a displacement of zero those of the loss.

    With r = dl/df at the expanded output, the gradient is J^T r + H[r . f] displacement.
    """
    loss = problem.loss
    assert isinstance(loss, SupervisedLoss)
    problem.budget.check()
    total, count, gradient = 0.0, 0.0, [torch.zeros_like(weight) for weight in space.weights]
    for chunk in problem.own_chunks():
        with twice_differentiated(problem, chunk):
            output, target = predict(problem.model, chunk)
            leaf = _expansion(chunk, output, target, space.weights, displacement).at().requires_grad_()
            terms = weighed(loss.terms(leaf, target), chunk)
            (slope,) = torch.autograd.grad(terms.total, leaf)
            cotangent = slope.requires_grad_()  # an operation that is differentiable only once must raise
            pulled = torch.autograd.grad(output, space.weights, cotangent, create_graph=True, materialize_grads=True)
            turned = torch.autograd.grad(along(pulled, displacement), space.weights, materialize_grads=True)
        total, count = total + float(terms.total.detach()), count + terms.count
        for whole, first, second in zip(gradient, pulled, turned, strict=True):
            whole.add_(first.detach() + second)
    problem.ranks.add_up(gradient)
    total, count = problem.ranks.sums([total, count])
    problem.evaluations.hessian_vector_products += EXPANSION_PRODUCTS + 1.0
    return total / count, [part.div_(count) for part in gradient]


def _expansion(
    chunk: Batch, output: Tensor, target: Tensor, weights: list[nn.Parameter], direction: Sequence[Tensor]
) -> Expansion:
    cotangent = torch.zeros_like(output).requires_grad_()
    pulled = torch.autograd.grad(output, weights, cotangent, create_graph=True, materialize_grads=True)
    slope = along(pulled, direction)
    (first,) = torch.autograd.grad(slope, cotangent, retain_graph=True, materialize_grads=True)
    curved = torch.autograd.grad(slope, weights, create_graph=True, materialize_grads=True)
    curvature = along(curved, direction)
    second = torch.zeros_like(output)
    if curvature.requires_grad:  # an output that is linear in the weights has none
        (second,) = torch.autograd.grad(curvature, cotangent, retain_graph=True, materialize_grads=True)
    return Expansion(output.detach(), first.detach(), second.detach(), target, chunk)
