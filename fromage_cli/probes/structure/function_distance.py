"""How far apart two sets of weights are as functions, on a batch."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.problem.data.pytrees import named_tensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.call import call_model
from fromage_cli.problem.losses.supervised_losses import prediction
from fromage_cli.problem.networks.layers import unwrapped
from fromage_cli.problem.networks.weights import load_weights


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
    """The relative distance of the outputs at the problem's weights and at another checkpoint's, in float64.

    Two forward passes under the same conditions; afterwards the weights are what they were, bit for bit. Raises
    MismatchError where the other weights do not fit or the output is no tensor, NumericalError where one is not finite.
    """
    before = _outputs(problem, "first")
    model = unwrapped(problem.model)
    kept = {name: value.detach().clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    try:
        notes = load_weights(model, other)
        after = _outputs(problem, "second")
    finally:
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in kept:
                    value.copy_(kept[name])
    squares = torch.cat([_row_squares(first, second) for first, second in zip(before, after, strict=True)])  # [rows, 2]
    return FunctionDistance(_ratio(squares.sum(0)), _largest(squares), (*other.notes, *notes))


def _outputs(problem: Problem, which: str) -> list[Tensor]:
    """The model's predictions, chunk by chunk, on the processor."""
    found = []
    for chunk in problem.chunks():
        problem.budget.check()
        with problem.evaluation(), torch.no_grad():
            output = _by_row(call_model(problem.model, chunk), chunk.size).cpu()
        if not bool(torch.isfinite(output).all()):
            raise NumericalError(
                f"The output of the {which} network on the batch is not finite.", "Try --dtype float64, or other data."
            )
        found.append(output)
    problem.evaluations.forwards += 1
    return found


def _by_row(output: Any, rows: int) -> Tensor:
    """The prediction; where the model returns none, every floating tensor with as many rows as the batch: [rows, …]."""
    try:
        return prediction(output)
    except MismatchError as error:
        found = [t for _, t in named_tensors(output) if t.is_floating_point() and t.dim() and len(t) == rows]
        if not found:
            raise MismatchError(
                f"{error.message.partition(';')[0]}; expected a tensor with a row for each of the batch's.",
                "Let the factory wrap the model in one that returns its output.",
            ) from error
        return torch.cat(
            [(tensor if tensor.dtype == torch.float64 else tensor.float()).reshape(rows, -1) for tensor in found], dim=1
        )


def _row_squares(before: Tensor, after: Tensor) -> Tensor:
    """||f~ - f||^2 and ||f||^2 of every row: [rows, 2] float64."""
    first, second = (output.double().reshape(len(output), -1) for output in (before, after))
    return torch.stack([(second - first).square().sum(1), first.square().sum(1)], dim=1)


def _ratio(squares: Tensor) -> float | None:
    difference, size = squares.tolist()
    return math.sqrt(difference / size) if size > 0.0 else None


def _largest(squares: Tensor) -> float | None:
    known = squares[squares[:, 1] > 0.0]
    return float((known[:, 0] / known[:, 1]).max().sqrt()) if len(known) else None
