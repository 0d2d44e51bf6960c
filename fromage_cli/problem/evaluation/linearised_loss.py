"""The loss of a network that is linearised at its weights: f + J dw in place of the output, for several dw at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, twice_differentiated
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.supervised_losses import SupervisedLoss, predict


def linearised_losses(
    problem: Problem, space: WeightSpace, moves: Sequence[Tensor], losses: Sequence[Loss]
) -> list[tuple[float, Tensor]]:
    """The mean loss of f + J dw for several dw [n], each with a loss of its own, and its gradient by dw, [n].

    J dw is the derivative of J^T u by u, which is linear in u: one graph serves all, built anew for each chunk.
    """
    totals, count = [0.0] * len(moves), 0.0
    slopes = [torch.zeros_like(move) for move in moves]
    for chunk in problem.chunks():
        with twice_differentiated(problem, chunk):
            output, target = predict(problem.model, chunk)
            cotangent = torch.zeros_like(output).requires_grad_()
            pulled = torch.autograd.grad(output, space.weights, cotangent, create_graph=True, materialize_grads=True)
            for index, (move, loss) in enumerate(zip(moves, losses, strict=True)):
                (pushed,) = torch.autograd.grad(
                    pulled, cotangent, space.split(move), retain_graph=True, materialize_grads=True
                )
                leaf = (output.detach() + pushed).requires_grad_()
                assert isinstance(loss, SupervisedLoss)  # as for the Gauss-Newton matrix
                terms = loss.terms(leaf, target)
                (slope,) = torch.autograd.grad(terms.total, leaf)
                parts = torch.autograd.grad(output, space.weights, slope, retain_graph=True, materialize_grads=True)
                totals[index] += float(terms.total.detach())
                slopes[index] += space.flat(parts)
        count += terms.count
    problem.evaluations.hessian_vector_products += len(moves)
    return [(total / count, slope / count) for total, slope in zip(totals, slopes, strict=True)]
