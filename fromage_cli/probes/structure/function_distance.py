"""The distance between two sets of weights as functions, on a batch."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import named_tensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.call import call_model
from fromage_cli.problem.losses.supervised_losses import prediction
from fromage_cli.problem.networks.weights import other_weights


@dataclass(frozen=True)
class FunctionDistance:
    """||f~(x) - f(x)|| / ||f(x)||."""

    whole: float | None
    """Over all rows together; None where f(x) = 0."""
    largest: float | None
    """The largest of any row with f(x) != 0."""
    notes: tuple[str, ...]
    """What the user should know of the other weights."""


def function_distance(problem: Problem, other: Checkpoint) -> FunctionDistance:
    """Measures the relative distance of the outputs at the problem's weights and at another checkpoint's, in float64.

    Two forward passes under the same conditions; afterwards the weights are what they were, bit for bit. Raises
    MismatchError where the other weights do not fit or the output is no tensor. NumericalError where one is not finite.
    """
    before = _outputs(problem, "first")
    with other_weights(problem.model, other) as (_, notes):
        after = _outputs(problem, "second")
    none = torch.zeros(0, dtype=torch.float64)  # of a rank without rows
    pairs = zip(before, after, strict=True)
    moved = torch.cat([none, *(_squares(second.double() - first) for first, second in pairs)])  # [rows]
    size = torch.cat([none, *(_squares(first.double()) for first in before)])  # [rows]
    ratios = (moved / size)[size > 0.0]
    distance, norm = problem.ranks.sums([float(moved.sum()), float(size.sum())])
    largest = max(problem.ranks.of_each(float(ratios.max()) if len(ratios) else 0.0))
    if not norm:
        return FunctionDistance(None, None, notes)
    return FunctionDistance(math.sqrt(distance / norm), math.sqrt(largest), notes)


def _squares(output: Tensor) -> Tensor:
    """The squared norm of each row, [rows]."""
    return output.square().reshape(len(output), -1).sum(1)


def _outputs(problem: Problem, which: str) -> list[Tensor]:
    """The model's predictions for this rank's rows on the processor, chunk by chunk: [rows, …]."""
    problem.budget.check()
    found = []
    for chunk in problem.own_chunks():
        found.append(problem.conditions.without_graph(partial(_output, problem, chunk)))
    if problem.ranks.any(not all(bool(torch.isfinite(output).all()) for output in found)):
        raise NumericalError(
            f"The output of the {which} network on the batch is not finite.", "Try --dtype float64, or other data."
        )
    problem.evaluations.forwards += 1
    return found


def _output(problem: Problem, chunk: Batch) -> Tensor:
    with problem.evaluation(chunk):
        return _prediction_by_row(call_model(problem.model, chunk), chunk.size).detach().cpu()


def _prediction_by_row(output: Any, rows: int) -> Tensor:
    """The prediction; where the model returns none, every floating tensor with as many rows as the batch: [rows, …]."""
    try:
        return prediction(output)
    except MismatchError as error:
        found = [t for _, t in named_tensors(output) if t.is_floating_point() and t.dim() and len(t) == rows]
        if not found:
            raise MismatchError(
                f"{error.message.partition(';')[0]}; expected a tensor with one row for each row of the batch.",
                "Let the factory wrap the model so that it returns its output as one tensor.",
            ) from error
        wide = [tensor if tensor.dtype == torch.float64 else tensor.float() for tensor in found]
        return torch.cat([tensor.reshape(rows, -1) for tensor in wide], dim=1)  # [rows, entries of all]
