"""The displacement between a problem's weights and another checkpoint's."""

import torch
from torch import Tensor

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.problem.call import unwrapped
from fromage_cli.problem.problem import Problem
from fromage_cli.problem.weights import load_weights


def displacement_to(problem: Problem, other: Checkpoint) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """W' - W of every trainable tensor, by name, and what the user should know of the other checkpoint.

    The other weights are loaded as the first were, subtracted, and everything is put back bit for bit.
    Raises MismatchError and NumericalError as loading weights does.
    """
    model = unwrapped(problem.model)
    kept = {name: value.detach().clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    try:
        notes = load_weights(model, other)
        moved = {tensor.name: tensor.parameter.detach() - kept[tensor.name] for tensor in problem.trainable}
    finally:
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name in kept:
                    value.copy_(kept[name])
    return moved, (*other.notes, *notes)
