"""Losses of a model's output against a target: cross-entropy, squared error and binary cross-entropy."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import describe_shapes
from fromage_cli.problem.losses.call import forward, inputs_and_targets
from fromage_cli.problem.losses.loss_terms import LossTerms, in_full_precision, scalar_loss
from fromage_cli.problem.user_code.named_code import named_code

IGNORED = -100
"""The class index that marks a target as not counted."""


def prediction(output: Any) -> Tensor:
    """The tensor to be held against the target: the output, its first element, or its `logits` or `output`.

    Raises MismatchError.
    """
    found = output
    if isinstance(output, Mapping):
        found = next((output[key] for key in ("logits", "output") if key in output), None)
    elif isinstance(output, list | tuple) and output and not hasattr(output, "logits"):
        found = output[0]
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return in_full_precision(found)
    keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    raise MismatchError(
        f"The model returned a {type(output).__name__}{keys}; expected a tensor, or a tuple or dict of logits.",
        "Give --loss file.py:function, which calls the model and returns the loss.",
    )


def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The model's prediction on the batch, and the batch's target.

    Raises MismatchError when there is no target.
    """
    positional, named, target = inputs_and_targets(model, batch)
    check_target(target, batch)
    return prediction(forward(model, batch, positional, named)), target


def check_target(target: Any, batch: Batch) -> None:
    """Refuse a batch without a target tensor.

    Raises MismatchError.
    """
    if not isinstance(target, Tensor):
        came = "no target" if target is None else f"a {type(target).__name__} as its target"
        hint = (
            "Name one tensor y, target or labels, or make the batch a tuple (inputs, target). Or give "
            "--loss file.py:function."
        )
        if isinstance(batch.data, Mapping) and "input_ids" in batch.data:
            hint = (
                f"For a language model of transformers copy input_ids to labels; the model shifts them itself. {hint}"
            )
        raise MismatchError(f"The batch has {came}: {describe_shapes(batch.data)}.", hint)


class SupervisedLoss(ABC):
    """A loss that is a known function of the model's output and the batch's target."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The sum over what the loss is a mean of, and how many there are."""
        return self.terms(*predict(model, batch))

    @property
    @abstractmethod
    def name(self) -> str:
        """How the loss is named in output."""

    @abstractmethod
    def terms(self, output: Tensor, target: Tensor) -> LossTerms:
        """The same of an output that is at hand."""

    def _of_elements(self, function: Callable[..., Tensor], output: Tensor, target: Tensor) -> LossTerms:
        output, target = align_elements(output, target)
        with named_code(f"computing the loss {self.name}"):
            total = function(output, target, reduction="sum")
        return LossTerms(scalar_loss(total, self.name), float(output.numel()))


class CrossEntropy(SupervisedLoss):
    """Mean over the targets that are not ignored of −log softmax(logits)[target]."""

    name = "cross-entropy"

    def terms(self, output: Tensor, target: Tensor) -> LossTerms:
        """Sum over targets, and how many there are."""
        logits, target = align_classes(output, target)
        with named_code("computing the cross-entropy"):
            total = functional.cross_entropy(logits, target, reduction="sum", ignore_index=IGNORED)
        if target.is_floating_point():  # rows of probabilities
            count = target.shape[0]
        elif not target.numel() or int(target.min()) > IGNORED:  # the least is found in a fraction of a count's time
            count = target.numel()
        else:
            count = int((target != IGNORED).sum())
        return LossTerms(scalar_loss(total, self.name), float(count))


class SquaredError(SupervisedLoss):
    """Mean over all elements of (output − target)²."""

    name = "mse"

    def terms(self, output: Tensor, target: Tensor) -> LossTerms:
        """Sum over elements, and how many there are."""
        return self._of_elements(functional.mse_loss, output, target)


class BinaryCrossEntropy(SupervisedLoss):
    """Mean over all elements of −t·log σ(z) − (1 − t)·log(1 − σ(z)), z the output before the sigmoid."""

    name = "bce"

    def terms(self, output: Tensor, target: Tensor) -> LossTerms:
        """Sum over elements, and how many there are."""
        return self._of_elements(functional.binary_cross_entropy_with_logits, output, target)


def align_classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Bring logits and targets into the layout (rows, classes, …) and (rows, …).

    Accepted are logits (N, C) with (N,) or (N, 1); (N, C, d…) with (N, d…); the sequence layout (N, T, C) with (N, T);
    rows (N·T, C) with (N, T); and probabilities of the logits' own shape (N, C).

    Raises MismatchError on anything else, and where T = C leaves both layouts possible.
    """
    shape, wanted = tuple(logits.shape), tuple(target.shape)
    if target.is_floating_point():
        if shape == wanted and logits.ndim == 2:
            return logits, target.to(logits.dtype)
        raise _layout_error(logits, target, "float targets must be class probabilities of the logits' shape (N, C)")
    target = target.long()
    if logits.ndim < 2:
        raise _layout_error(logits, target, "logits need a dimension for the classes")
    classes_second = wanted == shape[:1] + shape[2:]
    classes_last = wanted == shape[:-1]
    if classes_second and classes_last and logits.ndim > 2:
        raise _layout_error(
            logits, target, "the classes may be the second or the last dimension; give another sequence length"
        )
    if classes_second:
        return logits, target
    if classes_last or (logits.ndim == 2 and target.numel() == shape[0]):
        return logits.reshape(-1, shape[-1]), target.reshape(-1)  # (N·T, C), (N·T,)
    raise _layout_error(logits, target, "expected (N, C) with (N,), (N, C, d…) with (N, d…), or (N, T, C) with (N, T)")


def _layout_error(logits: Tensor, target: Tensor, reason: str) -> MismatchError:
    return MismatchError(
        f"Cross-entropy of logits {list(logits.shape)} against targets {list(target.shape)}: {reason}.",
        "If the model's output is laid out differently, give --loss file.py:function.",
    )


def align_elements(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Bring a target into the output's shape, where they differ by a last dimension of one at most.

    Raises MismatchError: broadcasting (N, 1) against (N,) would silently compare every output with every target.
    """
    if output.is_complex() or target.is_complex():
        raise MismatchError("The output or the target is complex; expected real numbers.", "Take the real part.")
    shapes = [shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape for shape in (output.shape, target.shape)]
    if output.shape == target.shape or shapes[0] == shapes[1]:
        return output, target.reshape(output.shape).to(output.dtype)
    raise MismatchError(
        f"The output has shape {list(output.shape)} and the target {list(target.shape)}; expected the same.",
        "For class labels give whole numbers (int64). Else reshape the target, or give --loss file.py:function.",
    )


def check_classes(logits: Tensor, target: Tensor) -> None:
    """Refuse class indices outside 0 … C−1, once, so that no evaluation has to look again.

    Raises MismatchError with the range that came.
    """
    logits, target = align_classes(logits, target)
    if target.is_floating_point():
        return
    classes, counted = logits.shape[1], target[target != IGNORED]
    if not counted.numel():
        raise MismatchError(
            f"Every target is {IGNORED}, which marks it as ignored.", "Give a batch with targets to predict."
        )
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= classes:
        binary = " For one output per sample use --loss bce." if classes == 1 else ""
        raise MismatchError(
            f"{_range(str(low), str(high))}, but the model has {classes} classes (0 to {classes - 1}).",
            f"Check that the batch belongs to this model. A target of {IGNORED} is ignored.{binary}",
        )


def check_probabilities(output: Tensor, target: Tensor) -> None:
    """Refuse targets of a binary cross-entropy outside 0 … 1.

    Raises MismatchError with the range that came.
    """
    _, target = align_elements(output, target)
    low, high = float(target.min()), float(target.max())
    if low < 0 or high > 1:
        raise MismatchError(
            f"{_range(f'{low:g}', f'{high:g}')}, but bce expects 0 to 1.", "Give --loss cross-entropy or --loss mse."
        )


def _range(low: str, high: str) -> str:
    """Where targets lie, as the beginning of a sentence."""
    return f"All targets are {low}" if low == high else f"Targets run from {low} to {high}"
