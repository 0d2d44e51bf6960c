"""Gradients of parts of the data, each as a training step would see it."""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean, stdev

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.backward_pass import Visitor
from fromage_cli.problem.evaluation.held_draws import on_parts
from fromage_cli.problem.evaluation.problem import Problem

MIXING = 0.1
"""Relative gap between the mean of parts and all rows, in loss or gradient, from which on rows count together."""
DRAWS_APART = 5.0
"""Standard errors of one mean by which two that are drawn apart may differ: 3.5 of their difference."""
ONE_OF_ROWS = "Give a --loss that is a mean over rows."


def minibatches(problem: Problem, count: int) -> list[Batch]:
    """The batches themselves where there are several, else `count` disjoint equal parts of the only one.

    Rows that are left over belong to no part. Empty where there would be fewer than two. Empty also where
    BatchNorm in training behaviour normalises by the rows, so that a part would have another loss.
    """
    if problem.further:
        return list(problem.batches)
    if count < 2 or problem.uses_batch_statistics:
        return []
    rows = problem.batch.size // count
    return [problem.batch.rows(index * rows, (index + 1) * rows) for index in range(count)]


def batches_of(problem: Problem, rows: int) -> list[Batch]:
    """Disjoint batches of so many rows; rows left over belong to none."""
    return [
        batch.rows(start, start + rows) for batch in problem.batches for start in range(0, batch.size - rows + 1, rows)
    ]


def visit_minibatches(
    problem: Problem,
    parts: Sequence[Batch],
    visit: Visitor,
    after: Callable[[int], None] = lambda parts: None,
    *,
    samples: bool = True,
) -> None:
    """Visits every tensor's gradient of each part, at fixed weights; one gradient of all rows in all.

    `after` is called with the number of parts that are done. Raises MismatchError where gradients are to be `samples`
    of all rows' and the parts' mean loss is far from theirs.
    """
    losses = []
    for count, (part, alone) in enumerate(zip(parts, on_parts(problem, parts), strict=True), 1):
        losses.append(alone.visit_gradient(visit))
        problem.evaluations.gradients += part.size / problem.rows
        after(count)
    if samples:
        require_samples(problem, parts, losses)


def require_samples(problem: Problem, parts: Sequence[Batch], losses: Sequence[float]) -> None:
    """Raises MismatchError where the mean loss of the parts is another than that of all rows.

    The batches themselves make up the loss, and weigh in it as they do. Where parts draw other random numbers than all
    rows, the means may lie apart by their standard errors.
    """
    if [id(part) for part in parts] == [id(batch) for batch in problem.batches]:
        return
    mean, whole = fmean(losses), problem.base.loss
    doubt = DRAWS_APART * stdev(losses) / sqrt(len(losses)) if problem.draws_apart and len(losses) > 1 else 0.0
    if not abs(mean - whole) <= MIXING * abs(whole) + doubt:
        size = "one row" if parts[0].size == 1 else f"{parts[0].size} rows"
        raise MismatchError(
            f"the loss is not a mean over rows: all rows give {whole:.4g}, parts of {size} give {mean:.4g}",
            ONE_OF_ROWS,
        )


def require_mean(problem: Problem, gap: float, whole: float, doubt: float) -> None:
    """Raises MismatchError where the mean of the parts' gradients is another gradient than that of all rows.

    Squared norms: `gap` of their distance, `whole` of the gradient of all rows, `doubt` of the mean's standard error.
    Rows that are left over and parts of unequal weight move the mean by up to half of that error. Where a batch is
    normalised by its own statistics, the two are not the same to begin with; where they draw other random numbers, they
    differ so.
    """
    if problem.uses_batch_statistics:
        return
    allowed = DRAWS_APART if problem.draws_apart else 0.25
    if not gap <= MIXING**2 * whole + allowed * doubt:
        raise MismatchError(
            "the loss is not a mean over rows: the gradient of all rows is not the mean of those of parts", ONE_OF_ROWS
        )
