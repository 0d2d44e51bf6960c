"""A training loss as a function of its own hyperparameters: label smoothing, and scalars that the user's loss takes."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from fromage_cli.errors import UsageError
from fromage_cli.problem.losses.loss_terms import Loss, LossTerms, scalar_loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.problem.losses.summed_loss import SummedLoss
from fromage_cli.problem.losses.supervised_losses import IGNORED, CrossEntropy, SupervisedLoss, align_classes

LABEL_SMOOTHING = "label-smoothing"
Scalar = float | Tensor
"""A number, or a scalar tensor that a derivative is taken by."""


@dataclass(frozen=True)
class SmoothedCrossEntropy(SupervisedLoss):
    """(1 − ε)·(cross-entropy) + ε·(mean over classes of −log softmax), as torch's `label_smoothing` has it."""

    smoothing: Scalar = 0.0

    @property
    def name(self) -> str:
        """How the loss is named in output."""
        return CrossEntropy.name

    def terms(self, output: Tensor, target: Tensor) -> LossTerms:
        """Sum over targets, and how many there are."""
        plain = CrossEntropy().terms(output, target)
        logits, target = align_classes(output, target)
        surprise = -functional.log_softmax(logits, 1).mean(1)  # rows × …
        if not target.is_floating_point():
            surprise = surprise.where(target != IGNORED, 0.0)
        total = (1.0 - self.smoothing) * plain.total + self.smoothing * surprise.sum()
        return LossTerms(scalar_loss(total, self.name), plain.count)


def training_loss(loss: Loss, values: Mapping[str, Scalar]) -> Loss:
    """The loss at these values of its hyperparameters, whatever they are in it now.

    Raises UsageError for label smoothing of another loss than cross-entropy. Raises it too for a scalar of another loss
    than a user's function.
    """
    if isinstance(loss, SummedLoss):
        return replace(loss, loss=training_loss(loss.loss, values))
    found = loss
    for name, value in values.items():
        if name == LABEL_SMOOTHING:
            if not isinstance(loss, CrossEntropy | SmoothedCrossEntropy):
                raise UsageError(
                    f"Label smoothing belongs to --loss cross-entropy, and the loss is {loss.name}.",
                    "Leave --label-smoothing out. To move a scalar of your own loss, give --hyper NAME=VALUE.",
                )
            found = SmoothedCrossEntropy(value)
        elif isinstance(found, FunctionLoss):
            found = replace(found, hyperparameters={**found.hyperparameters, name: value})
        else:
            raise UsageError(
                f"--hyper {name} is handed to the loss by keyword, and {loss.name} takes none.",
                f"Give --loss file.py:function with function(model, batch, {name}).",
            )
    return found


def default_of(loss: FunctionLoss, name: str) -> float | None:
    """What the user's function takes for a keyword that it is not given; None where it must be given.

    Raises UsageError where the function has no such keyword.
    """
    parameters = inspect.signature(loss.function).parameters
    if name in parameters:
        default = parameters[name].default
        return float(default) if isinstance(default, int | float) else None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    raise UsageError(
        f"--hyper {name}: {loss.name} takes no keyword {name!r}; it takes {', '.join(list(parameters)[2:]) or 'none'}.",
        f"Let the function take it: def function(model, batch, {name}=0.0).",
    )


def leaves(values: Mapping[str, float], device: torch.device) -> dict[str, Tensor]:
    """Scalar tensors in float64 that derivatives are taken by."""
    return {n: torch.tensor(v, dtype=torch.float64, device=device, requires_grad=True) for n, v in values.items()}
