"""How far apart two sets of weights are as functions, on a batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.errors import NumericalError
from fromage_cli.problem.call import call_model, unwrapped
from fromage_cli.problem.problem import Problem
from fromage_cli.problem.supervised_losses import prediction
from fromage_cli.problem.weights import load_weights


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
            output = prediction(call_model(problem.model, chunk)).cpu()
        if not bool(torch.isfinite(output).all()):
            raise NumericalError(
                f"The output of the {which} network on the batch is not finite.", "Try --dtype float64, or other data."
            )
        found.append(output)
    problem.evaluations.forwards += 1
    return found


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
