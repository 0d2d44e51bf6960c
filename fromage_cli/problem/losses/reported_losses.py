"""Losses that somebody else computes: the model itself, or the user's function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.independent_copy import independent_copy
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import map_tensors
from fromage_cli.problem.graphs.network import class_name
from fromage_cli.problem.losses.call import call_model, forward, inputs_and_targets
from fromage_cli.problem.losses.loss_terms import LossTerms, scalar_loss
from fromage_cli.problem.networks.layers import unwrapped
from fromage_cli.problem.user_code.named_code import named_code


def own_loss(output: Any) -> Any:
    """The loss inside a model's output: `.loss`, the key `loss`, a scalar, or a scalar in a tuple; None without one."""
    if isinstance(output, Mapping):
        return output.get("loss")
    if getattr(output, "loss", None) is not None:
        return output.loss
    candidates = output if isinstance(output, list | tuple) else [output]
    scalars = (item for item in candidates if isinstance(item, Tensor) and item.ndim == 0 and item.is_floating_point())
    return next(scalars, None)


@dataclass(frozen=True)
class ModelsOwnLoss:
    """The mean loss that the model returns beside, or instead of, its output.

    Its denominator is taken to be the number of integer targets that are not negative, else the number of rows. A
    causal language model of the Hugging Face kind shifts `labels` itself. There the first target of each row does not
    count.
    """

    name: str = "model's own"

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The model's loss times its denominator, and the denominator."""
        positional, named, target = inputs_and_targets(model, batch)
        count = count_of_own_loss(model, target, batch)
        if count == 0.0:  # the mean over no targets is not a number: with others its graph is that of any rows
            known = map_tensors(batch.data, lambda tensor: tensor.clamp(min=0) if tensor is target else tensor)
            batch = replace(batch, data=known)
            positional, named, _ = inputs_and_targets(model, batch)
        loss = scalar_loss(own_loss(forward(model, batch, positional, named)), "the model")
        return LossTerms(loss * count, count)


def count_of_own_loss(model: nn.Module, target: Any, batch: Batch) -> float:
    """How many targets a model's own loss is the mean of."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        return float(batch.size)
    kind = class_name(unwrapped(model))
    shifted = target.ndim == 2 and kind.endswith(("ForCausalLM", "LMHeadModel"))
    return float(((target[:, 1:] if shifted else target) >= 0).sum())


@dataclass(frozen=True)
class OutputLoss:
    """The model's output is the loss, a mean over rows."""

    name: str = "output"

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The output times the number of rows, and that number."""
        loss = scalar_loss(call_model(model, batch), "the model's output")
        return LossTerms(loss * batch.size, float(batch.size))


@dataclass(frozen=True)
class FunctionLoss:
    """The user's `function(model, batch, **hyperparameters)`, which returns a mean over rows or (sum, count)."""

    name: str
    function: Callable[..., Any]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The function's sum and count; of a mean, the mean times the number of rows."""
        with named_code(f"computing the loss {self.name}"):
            value = self.function(model, map_tensors(batch.data, independent_copy), **self.hyperparameters)
        if not isinstance(value, tuple | list):
            return LossTerms(scalar_loss(value, self.name) * batch.size, float(batch.size))
        count = value[1] if len(value) == 2 else None
        if isinstance(count, Tensor):
            count = count.item() if count.numel() == 1 and not count.is_complex() else None
        if not isinstance(count, int | float) or not 0 <= count < torch.inf:
            raise MismatchError(
                f"{self.name} returned {len(value)} values; expected a scalar, or (sum, count) with a count "
                "of 0 or more.",
                "Return (loss summed over rows, number of rows).",
            )
        return LossTerms(scalar_loss(value[0], self.name), float(count))
