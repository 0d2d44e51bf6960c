"""The loss of a network that is linearised at its weights: f + J dw in place of the output, for several dw at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, twice_differentiated
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import Loss, weighed
from fromage_cli.problem.losses.supervised_losses import SupervisedLoss, predict


def linearised_losses(
    problem: Problem, space: WeightSpace, moves: Sequence[Tensor], losses: Sequence[Loss]
) -> list[tuple[float, Tensor]]:
    """How the mean loss of f + J dw changes beyond first order for several dw [n], and its gradient, [n].

    It is l(f + J dw) - l_0(f) - <grad l_0(f), J dw>, with a loss l for each dw.
    l_0 is that of the problem. What is left out
    cancels between dw and -dw; without it, and in float64, small dw do not drown in rounding.
    J dw is the derivative of J^T u by u, which is linear in u: one graph serves all, built anew for each chunk.
    """
    problem.budget.check()
    totals, count = [0.0] * len(moves), 0.0
    slopes = [torch.zeros_like(move) for move in moves]
    with failing_together(problem.ranks):
        for chunk in problem.own_chunks():
            with twice_differentiated(problem, chunk):
                output, target = predict(problem.model, chunk)
                cotangent, start = torch.zeros_like(output).requires_grad_(), output.detach().double()
                pulled = torch.autograd.grad(
                    output, space.weights, cotangent, create_graph=True, materialize_grads=True
                )
                base, size, first = _differentiated(problem.loss, start, target, chunk)
                for index, (move, loss) in enumerate(zip(moves, losses, strict=True)):
                    (pushed,) = torch.autograd.grad(
                        pulled, cotangent, space.split(move), retain_graph=True, materialize_grads=True
                    )
                    value, _, slope = _differentiated(loss, start + pushed, target, chunk)
                    totals[index] += float(value - base - (first * pushed).sum())
                    beyond = (slope - first).to(output.dtype)
                    parts = torch.autograd.grad(
                        output, space.weights, beyond, retain_graph=True, materialize_grads=True
                    )
                    slopes[index] += space.flat(parts)
            count += size
    problem.ranks.add_up(slopes)
    *totals, count = problem.ranks.sums([*totals, count])
    problem.evaluations.hessian_vector_products += len(moves)
    return [(total / count, slope / count) for total, slope in zip(totals, slopes, strict=True)]


def _differentiated(loss: Loss, output: Tensor, target: Tensor, chunk: Batch) -> tuple[Tensor, float, Tensor]:
    """The sum over what the loss is a mean of, how many there are, and the derivative of the sum by the output."""
    assert isinstance(loss, SupervisedLoss)  # as for the Gauss-Newton matrix
    leaf = output.requires_grad_()
    terms = weighed(loss.terms(leaf, target), chunk)
    (slope,) = torch.autograd.grad(terms.total, leaf)
    leaf.requires_grad_(False)
    return terms.total.detach(), terms.count, slope
