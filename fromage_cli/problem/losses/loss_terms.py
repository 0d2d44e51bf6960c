"""A loss in two parts, total and count: chunks of a batch are put together with the right weights."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import Batch


@dataclass(frozen=True, eq=False)
class LossTerms:
    """loss = total / count; over chunks, Σ total / Σ count."""

    total: Tensor
    """Sum over what is counted: a scalar with its graph."""
    count: float
    """The loss's own denominator: samples, target tokens or elements."""


def weighed(terms: LossTerms, batch: Batch) -> LossTerms:
    """The terms of a loss, as its rows count; of rows that count nothing the total is 0, whatever it was."""
    if batch.weight == 1.0:
        return terms
    return LossTerms(torch.nan_to_num(terms.total, 0.0, 0.0, 0.0) * batch.weight, terms.count * batch.weight)


class Loss(Protocol):
    """Maps a model and a batch to the terms of a loss."""

    @property
    def name(self) -> str:
        """How the loss is named in output."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """Run the model on the batch and return the loss's total and count."""


def scalar_loss(value: Any, source: str) -> Tensor:
    """A loss as a scalar with a graph; anything else is refused with what it is.

    Raises MismatchError.
    """
    hint = "Return the loss as one real number that depends on the model's parameters, or (sum, count)."
    if not isinstance(value, Tensor):
        raise MismatchError(f"The loss from {source} is a {type(value).__name__}; expected a scalar tensor.", hint)
    if value.numel() != 1 or value.ndim > 1:
        raise MismatchError(f"The loss from {source} has shape {list(value.shape)}; expected a scalar.", hint)
    if not value.is_floating_point():
        raise MismatchError(f"The loss from {source} has type {value.dtype}; expected a real number.", hint)
    if torch.is_grad_enabled() and not value.requires_grad:
        raise MismatchError(
            f"The loss from {source} has no gradient: it does not depend on the model's trainable parameters.",
            "Check for detach(), item(), torch.no_grad() or frozen parameters between model and loss.",
        )
    full = in_full_precision(value)  # a mean in half precision times its count would overflow or be rounded again
    return full.reshape(()) if full.ndim else full  # ()


def in_full_precision(values: Tensor) -> Tensor:
    """The same values in float32 where they are narrower."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
