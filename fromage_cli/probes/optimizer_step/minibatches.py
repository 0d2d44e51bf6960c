"""Gradients of parts of the data, each as a training step would see it."""

from collections.abc import Callable
from statistics import fmean

from torch import Tensor

from fromage_cli.problem.batches import Batch
from fromage_cli.problem.evaluation import batch_statistics_modules
from fromage_cli.problem.problem import Problem

MIXING = 0.1
"""Relative gap between the parts' mean loss and that of all rows from which on the loss is one of rows together."""


def minibatches(problem: Problem, count: int) -> list[Batch]:
    """The batches themselves where there are several, else `count` disjoint equal parts of the only one.

    Rows that are left over belong to no part. Empty where there would be fewer than two, and where BatchNorm in
    training behaviour normalises by the rows, so that a part would have another loss.
    """
    if problem.further:
        return list(problem.batches)
    if count < 2 or (problem.mode != "eval" and batch_statistics_modules(problem.model)):
        return []
    rows = problem.batch.size // count
    return [problem.batch.rows(index * rows, (index + 1) * rows) for index in range(count)]


def minibatch_gradients(problem: Problem, parts: list[Batch], visit: Callable[[str, Tensor], None]) -> bool:
    """Visits every tensor's gradient of each part, at fixed weights; one gradient of all rows in all.

    Returns whether the parts' mean loss is near that of all rows, so that their gradients are samples of its gradient.
    """
    losses = []
    for part in parts:
        losses.append(problem.on(part).visit_gradient(lambda tensor, gradient: visit(tensor.name, gradient)))
        problem.evaluations.gradients += part.size / problem.rows
    return bool(problem.further) or abs(fmean(losses) - problem.base.loss) <= MIXING * abs(problem.base.loss)
