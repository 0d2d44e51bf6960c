"""The loss of the same rows at earlier checkpoints of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.weights import load_weights


@dataclass(frozen=True)
class EarlierLoss:
    """The loss at one earlier checkpoint."""

    step: int | None
    loss: float
    """The loss of the same rows at the earlier checkpoint."""


def losses_before(problem: Problem, earlier: Sequence[Checkpoint], last: Checkpoint) -> tuple[EarlierLoss, ...]:
    """The loss of the problem's rows at earlier checkpoints, by a forward pass each.

    The network then has the weights of `last` again. Checkpoints that do not fit it, or hold NaN, are left out.
    """
    losses = []
    try:
        for checkpoint in earlier:
            try:
                load_weights(problem.model, checkpoint)
            except (MismatchError, NumericalError):
                continue
            losses.append(EarlierLoss(checkpoint.step, problem.value()))
    finally:
        if earlier:
            load_weights(problem.model, last)
    return tuple(losses)
