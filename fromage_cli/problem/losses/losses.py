"""Which loss: a built-in name, the model's own, or the user's function – decided once, on the batch at hand."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fromage_cli.errors import MismatchError, OutOfMemory, UsageError
from fromage_cli.problem.conditions.evaluation import Conditions, Mode
from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import describe_shapes, named_tensors
from fromage_cli.problem.losses.call import forward, inputs_and_targets
from fromage_cli.problem.losses.loss_terms import Loss, LossTerms, scalar_loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss, ModelsOwnLoss, OutputLoss, own_loss
from fromage_cli.problem.losses.supervised_losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    SquaredError,
    align_elements,
    check_classes,
    check_probabilities,
    check_target,
    prediction,
)
from fromage_cli.problem.user_code.forms import BUILT_IN_LOSSES
from fromage_cli.problem.user_code.named_code import check_arguments, one_row_does_not_fit
from fromage_cli.problem.user_code.specification import load_named, parse_specification
from fromage_cli.ranks import ALONE, current

__all__ = ["BUILT_IN_LOSSES", "Loss", "LossTerms", "resolve_loss"]


def resolve_loss(
    spec: str,
    model: nn.Module,
    batch: Batch,
    *,
    mode: Mode = "auto",
    seed: int = 0,
    hyperparameters: Mapping[str, Any] | None = None,
    allow_code: bool = True,
) -> Loss:
    """The loss that a specification names, checked by one forward pass that leaves no trace.

    `auto` is the model's own loss where its output holds one. Otherwise it is cross-entropy for integer targets and
    squared error for floating ones; a scalar beside the output of a model that did not see the target is no loss. Class
    indices and probabilities are checked here and not in every evaluation.

    Raises UsageError (unknown name) and MismatchError (no target, target out of range, shapes that do not fit).
    """
    if parse_specification(spec) is not None:
        function = load_named(spec, "--loss", allow_code=allow_code)
        if not callable(function):
            raise MismatchError(f"--loss {spec} is a {type(function).__name__}, not a function.", "Name a function.")
        check_arguments(function, (model, batch.data), hyperparameters or {}, "--loss")
        return FunctionLoss(spec, function, hyperparameters or {})
    if spec not in BUILT_IN_LOSSES:
        near = difflib.get_close_matches(spec, BUILT_IN_LOSSES, 1, 0.4)
        hint = (f"Did you mean {near[0]}? " if near else "") + f"Built-in losses: {', '.join(BUILT_IN_LOSSES)}."
        raise UsageError(f"Unknown --loss {spec!r}; expected a built-in name or path/file.py:function.", hint)
    if hyperparameters:
        raise UsageError(
            f"--loss {spec} is a built-in loss and takes no arguments.",
            "To set arguments, give --loss file.py:function.",
        )
    return _resolved(spec, model, batch, mode, seed)


def _resolved(spec: str, model: nn.Module, batch: Batch, mode: Mode, seed: int) -> Loss:
    """The loss on these rows; where they do not fit in memory, each half of them is looked at."""
    try:
        with failing_together(current() if current().sharded else ALONE):
            return _resolved_at_once(spec, model, batch, mode, seed)
    except OutOfMemory as error:
        if batch.size == 1:
            raise one_row_does_not_fit(error) from error
    middle = batch.size // 2
    loss, _ = [_resolved(spec, model, batch.rows(*part), mode, seed) for part in ((0, middle), (middle, batch.size))]
    return loss


def _resolved_at_once(spec: str, model: nn.Module, batch: Batch, mode: Mode, seed: int) -> Loss:
    conditions = Conditions(model)
    with conditions.comparable(mode, seed):
        positional, named, target = inputs_and_targets(model, batch)
        output = conditions.without_graph(lambda: forward(model, batch, positional, named))
    with torch.no_grad():
        saw_target = any(tensor is target for _, tensor in named_tensors((positional, named)))
        beside = isinstance(output, list | tuple) and getattr(output, "loss", None) is None
        if spec == "auto" and target is not None and beside and not saw_target:
            spec = _by_target_type(target, batch)
        return _built_in(spec, output, target, batch)


def are_one_hot(model: nn.Module, batch: Batch) -> bool:
    """Whether the targets are floating rows of zeros with a single 1, as classes are often written."""
    target = inputs_and_targets(model, batch)[2]
    if (
        not isinstance(target, torch.Tensor)
        or not target.is_floating_point()
        or target.ndim < 2
        or target.shape[-1] < 2
    ):
        return False
    return bool(((target == 0) | (target == 1)).all()) and bool((target.sum(-1) == 1).all())


def _built_in(spec: str, output: Any, target: Any, batch: Batch) -> Loss:
    if spec == "output":
        scalar_loss(output, "the model's output")
        return OutputLoss()
    if spec == "auto":
        if own_loss(output) is not None:
            scalar_loss(own_loss(output), "the model")
            return ModelsOwnLoss()
        spec = _by_target_type(target, batch)
    check_target(target, batch)
    predicted = prediction(output)
    if spec == "cross-entropy":
        check_classes(predicted, target)
        return CrossEntropy()
    if spec == "bce":
        check_probabilities(predicted, target)
        return BinaryCrossEntropy()
    align_elements(predicted, target)
    return SquaredError()


def _by_target_type(target: Any, batch: Batch) -> str:
    check_target(target, batch)
    if target.dtype is torch.bool or target.is_complex():
        raise MismatchError(
            f"There is no default loss for targets of type {target.dtype}: {describe_shapes(batch.data)}.",
            "Give --loss bce, cross-entropy, mse or file.py:function.",
        )
    return "mse" if target.is_floating_point() else "cross-entropy"
