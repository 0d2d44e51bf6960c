"""Means over minibatch gradients at fixed weights, which stand in for moments that no state holds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromage_cli.counting import counted
from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step.minibatches import minibatches, visit_minibatches
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

MINIBATCHES = 16
"""Minibatch gradients that stand in for missing moments: each more costs a step's overhead, and 16 tell them apart."""
FIRST_STEP = "the gradient of all rows, which cannot be split: the step is that of an optimizer without history"


def parts_for_moments(problem: Problem) -> list[Batch]:
    """The minibatches whose gradients make an update without a state, of two rows or more; none where there are few."""
    return minibatches(problem, min(MINIBATCHES, problem.batch.size // 2))


def moments_of_minibatches(problem: Problem, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The mean and the mean square of `count` minibatch gradients at fixed weights, and words on where they come from.

    Where the rows cannot be cut (BatchNorm, few rows, a loss of rows together), those of the very first step: the
    gradient of all rows and its square. Costs at most one gradient of all rows.
    """
    parts = minibatches(problem, count)
    found = mean_gradients(problem, parts) if parts else None
    if found is not None:
        return *found, spelled_parts(parts)
    gradients = problem.base.gradients
    return (
        {name: gradient.clone() for name, gradient in gradients.items()},
        {name: gradient.square() for name, gradient in gradients.items()},
        FIRST_STEP,
    )


def spelled_parts(parts: Sequence[Batch]) -> str:
    """What the parts are, in words."""
    return f"{len(parts)} gradients of {counted(parts[0].size, 'row')} each at fixed weights"


def mean_gradients(problem: Problem, parts: list[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """The means of minibatch gradients and of their squares by tensor name; None where they are no samples."""
    means = {tensor.name: torch.zeros_like(tensor.parameter) for tensor in problem.receiving}
    squares = {name: torch.zeros_like(mean) for name, mean in means.items()}

    def accumulate(tensor: TrainableTensor, gradient: Tensor) -> None:
        if tensor.name in means:
            means[tensor.name].add_(gradient, alpha=1.0 / len(parts))
            squares[tensor.name].addcmul_(gradient, gradient, value=1.0 / len(parts))

    try:
        visit_minibatches(problem, parts, accumulate)
    except MismatchError:
        return None
    return means, squares
