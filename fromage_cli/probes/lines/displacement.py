"""The displacement between a problem's weights and another checkpoint's."""

import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import unwrapped
from fromage_cli.problem.networks.weights import load_weights


def displacement_to(problem: Problem, other: Checkpoint) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """W' - W of every trainable tensor, by name, and what the user should know of the other checkpoint.

    The other weights are loaded as the first were, subtracted, and everything is put back bit for bit. Never more than
    one copy of the weights is held beside them: each difference takes the place of what was kept.
    Raises MismatchError and NumericalError as loading weights does.
    """
    model = unwrapped(problem.model)
    kept = _copies(model)
    moved: dict[str, Tensor] = {}
    try:
        notes = load_weights(model, other)
        for tensor in problem.trainable:
            origin = kept[tensor.name]
            moved[tensor.name] = tensor.parameter.detach() - origin
            tensor.parameter.data.copy_(origin)
            del kept[tensor.name], origin
    finally:
        held = model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in kept.items():
                held[name].copy_(value)
    return moved, (*other.notes, *notes)


def _copies(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of the model, tied ones once under the first of their names."""
    copies: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if torch.is_tensor(value) and id(value) not in seen:
            copies[name] = value.detach().clone()
            seen.add(id(value))
    return copies
