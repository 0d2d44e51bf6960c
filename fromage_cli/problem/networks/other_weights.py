"""Another checkpoint's weights in the place of a network's own, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fromage_cli.problem.networks.layers import unwrapped
from fromage_cli.problem.networks.weights import load_weights

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint


@contextmanager
def other_weights(model: nn.Module, other: "Checkpoint") -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """Loads another checkpoint's tensors into a model and puts everything back bit for bit, however the block ends.

    Yields the model's own tensors by name, tied ones once under the first of their names, and what the user should know
    of the other weights. What the block takes out of that dictionary it puts back itself, and so lets its memory go.
    Raises MismatchError and NumericalError as `load_weights` does.
    """
    model = unwrapped(model)
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if torch.is_tensor(value) and id(value) not in seen:
            kept[name] = value.detach().clone()
            seen.add(id(value))
    try:
        yield kept, (*other.notes, *load_weights(model, other))
    finally:
        held = model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in kept.items():
                held[name].copy_(value)
