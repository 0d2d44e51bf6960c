"""Gradients of parts of the data, each as a training step would see it."""

from collections.abc import Callable

from torch import Tensor

from fromage_cli.problem.batches import Batch
from fromage_cli.problem.problem import Problem


def minibatches(problem: Problem, count: int) -> list[Batch]:
    """The batches themselves where there are several, else `count` disjoint equal parts of the only one.

    Rows that are left over belong to no part.
    """
    if problem.further:
        return list(problem.batches)
    rows = problem.batch.size // count
    return [problem.batch.rows(index * rows, (index + 1) * rows) for index in range(count)]


def minibatch_gradients(problem: Problem, parts: list[Batch], visit: Callable[[str, Tensor], None]) -> None:
    """Visits every tensor's gradient of each part, at fixed weights; one gradient of all rows in all."""
    for part in parts:
        problem.on(part).visit_gradient(lambda tensor, gradient: visit(tensor.name, gradient))
        problem.evaluations.gradients += part.size / problem.rows
