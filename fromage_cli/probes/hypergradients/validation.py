"""The loss that a hyperparameter is to lower: that of validation rows, in evaluation mode and without regularisers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from fromage_cli.counting import counted
from fromage_cli.errors import NumericalError
from fromage_cli.probes.hypergradients.running_statistics import Buffers, RunningStatistics
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.gradient_pullback import targets_of
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

PARTS = 8
"""Into which a single validation batch is cut, to see how the answer differs between rows."""


@dataclass(frozen=True)
class Validation:
    """Rows that no training step sees, and the loss of each part of them."""

    problem: Problem
    """In evaluation mode, over all validation rows."""
    parts: tuple[Batch, ...]

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """What each part's loss counts for in that of all rows: its share of the targets."""
        rows = [self.problem.on(batch) for batch in self.parts]
        counts = [targets_of(part) for part in rows]
        return tuple(count / sum(counts) for count in counts)

    def losses(self) -> list[float]:
        """The loss of each part, at the weights and running statistics that the model has now; 0 of one that has none.

        Their mean by `shares` is the loss of all rows.
        """
        found = []
        for batch, share in zip(self.parts, self.shares, strict=True):
            part = self.problem.on(batch)
            found.append(part.value() if share else 0.0)
            self.problem.evaluations.forwards += part.rows / self.problem.rows
        return found

    def gradient(self, tensors: Sequence[TrainableTensor], statistics: RunningStatistics) -> "ValidationGradient":
        """Loss and gradient by the weights and by the running statistics, where the model is now."""
        problem = self.problem
        problem.budget.check()
        watched = statistics.moving
        weights = {tensor.name: torch.zeros_like(tensor.parameter) for tensor in tensors}
        buffers = {key: torch.zeros_like(value) for key, value in watched.items()}
        total = count = 0.0
        for chunk in problem.own_chunks():
            with problem.evaluation(chunk), statistics.requiring_gradients() as leaves:
                terms = problem.loss(problem.model, chunk)
                begins = [*(tensor.parameter for tensor in tensors), *leaves.values()]
                slopes = torch.autograd.grad(terms.total, begins, materialize_grads=True, allow_unused=True)
                total, count = total + float(terms.total.detach()), count + terms.count
            for kept, slope in zip([*weights.values(), *buffers.values()], slopes, strict=True):
                kept.add_(slope)
        problem.ranks.add_up([*weights.values(), *buffers.values()])
        total, count = problem.ranks.sums([total, count])
        problem.evaluations.gradients += 1
        for value in (*weights.values(), *buffers.values()):
            value.div_(count)
        return ValidationGradient(total / count, weights, buffers)


@dataclass(frozen=True)
class ValidationGradient:
    """The validation loss, and its derivatives."""

    loss: float
    weights: dict[str, Tensor]
    buffers: Buffers


def require_finite(loss: float, steps: int) -> None:
    """Raises NumericalError unless the validation loss after some steps is finite."""
    if not math.isfinite(loss):
        raise NumericalError(
            f"The validation loss is {loss} after {counted(steps, 'further step')}.",
            "Ask for fewer steps (--method unroll:N), or give a smaller --lr.",
        )


def validation_parts(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """The batches, or equal parts of the only one; rows left over belong to the last."""
    if len(batches) > 1 or batches[0].size < 2:
        return tuple(batches)
    whole = batches[0]
    count = min(PARTS, whole.size)
    bounds = [round(index * whole.size / count) for index in range(count + 1)]
    return tuple(whole.rows(start, stop) for start, stop in pairwise(bounds))
