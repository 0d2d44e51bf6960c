"""Gradients of parts of the batch, each as a training step would see it."""

from collections.abc import Callable

from torch import Tensor

from fromage_cli.problem.problem import Problem


def minibatch_gradients(problem: Problem, count: int, visit: Callable[[str, Tensor], None]) -> int:
    """Visits every tensor's gradient of each of `count` disjoint equal parts of the batch, at fixed weights.

    Rows that are left over belong to no part. Returns the rows of a part. Costs one gradient of the whole batch.
    """
    rows = problem.batch.size // count
    for index in range(count):
        part = problem.batch.rows(index * rows, (index + 1) * rows)
        problem.on(part).visit_gradient(lambda tensor, gradient: visit(tensor.name, gradient))
        problem.evaluations.gradients += rows / problem.batch.size
    return rows
