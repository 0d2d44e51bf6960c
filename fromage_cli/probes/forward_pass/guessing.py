"""What guessing gives: the loss of the best output that does not depend on the input.

It is the entropy of the classes' frequencies for cross-entropy, and the variance of the targets for squared error.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fromage_cli.missing import Missing, Why

WATCHED = (functional.cross_entropy, functional.nll_loss, functional.mse_loss)
MSE = "mse"
SINGLE = 0.1
"""Share of targets whose class comes once, above which the entropy of the frequencies is not known.

It is the chance that the next target is of a class not seen (Good and Turing).
"""
UNKNOWN_LOSS = Missing(Why.NO_FORMULA, "the loss is neither a cross-entropy nor a squared error")
SEVERAL = Missing(Why.NO_FORMULA, "the loss is made of several")
WEIGHED = Missing(Why.NO_FORMULA, "the loss weighs its targets in a way of its own")
TOO_RARE = Missing(Why.TOO_FEW_ROWS, "too many classes come only once in the batch to know their frequencies")
TOO_FEW = Missing(Why.TOO_FEW_ROWS, "a single row has no variance")
ALL_EQUAL = Missing(Why.ZERO_OR_NOT_FINITE, "all targets are equal, and guessing is never wrong")


@dataclass(frozen=True)
class Guessing:
    """The loss beside that of guessing."""

    kind: str
    """`cross-entropy` or `mse`."""
    targets: int
    """How many targets, without those that are ignored."""
    loss: float
    """The mean over them, without what else the loss may add."""
    guess: float
    """The least mean that an output without regard to the input has, in the loss's own unit."""
    ratio: float
    """loss / guess."""


@dataclass(frozen=True)
class _Call:
    """One call of a loss."""

    kind: str
    total: float
    """Sum of the loss over what it is a mean of."""
    count: float
    """How much that is: targets, their weights, or elements."""
    sums: tuple[Tensor, ...]
    """Over targets, by class or by output, so that calls add up."""
    soft: bool = False
    """Whether the targets are probabilities of classes."""
    smoothing: float = 0.0
    """Label smoothing."""


class TargetWatcher(TorchFunctionMode):
    """Sees every call of a loss that compares an output with targets, over one or several passes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call | Missing] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Sees a call of torch."""
        value = func(*args, **(kwargs or {}))
        if func in WATCHED:
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            read = _read_elements if func is functional.mse_loss else _read_classes
            with torch.no_grad():
                self.calls.append(read(bound.arguments, value.detach()))
        return value

    def guessing(self, passes: int) -> Guessing | Missing:
        """The loss of so many passes beside that of guessing; each has to call one loss, and always the same."""
        calls = [call for call in self.calls if isinstance(call, _Call)]
        if not self.calls:
            return UNKNOWN_LOSS
        if len(self.calls) != passes or len({(call.kind, call.soft, call.smoothing) for call in calls}) > 1:
            return SEVERAL
        if len(calls) < passes:
            return next(call for call in self.calls if isinstance(call, Missing))
        sums = [torch.stack(parts).sum(0) for parts in zip(*(call.sums for call in calls), strict=True)]
        kind, soft, smoothing = calls[0].kind, calls[0].soft, calls[0].smoothing
        guess = _of_elements(*sums) if kind == MSE else _of_classes(*sums, soft=soft, smoothing=smoothing)
        if isinstance(guess, Missing):
            return guess
        loss = sum(call.total for call in calls) / sum(call.count for call in calls)
        return Guessing(kind, round(float(sums[0].sum())), loss, guess, loss / guess)


def _read_classes(given: Mapping[str, Any], value: Tensor) -> _Call | Missing:
    """What a call of a cross-entropy tells."""
    output, target, weight = given["input"], given["target"], given["weight"]
    soft, smoothing = target.is_floating_point(), given.get("label_smoothing", 0.0)
    if value.ndim or given["reduction"] == "none" or (weight is not None and (soft or smoothing)):
        return WEIGHED
    classes = output.shape[1 if output.ndim > 1 else 0]
    if soft:
        counted = target.double().movedim(1 if target.ndim > 1 else 0, -1).reshape(-1, classes).sum(0)
    else:
        counted = torch.bincount(target[target != given["ignore_index"]], minlength=classes).double()
    weighed = counted if weight is None else counted * weight
    count = target.numel() / classes if soft else float(weighed.sum())
    return _Call("cross-entropy", _total(given, value, count), count, (counted, weighed), soft, smoothing)


def _read_elements(given: Mapping[str, Any], value: Tensor) -> _Call | Missing:
    """What a call of the squared error tells."""
    output, target = given["input"], given["target"]
    if value.ndim or given["reduction"] == "none" or given["weight"] is not None or output.shape != target.shape:
        return WEIGHED
    rows = target.double().reshape(len(target) if target.ndim else 1, -1)
    sums = torch.full_like(rows[0], len(rows)), rows.sum(0), rows.square().sum(0)
    return _Call(MSE, _total(given, value, target.numel()), target.numel(), sums)


def _total(given: Mapping[str, Any], value: Tensor, count: float) -> float:
    """The loss as a sum; that of a chunk without targets is 0, and its mean is none."""
    return float(value) * (count if given["reduction"] == "mean" else 1.0) if count else 0.0


def _of_classes(counted: Tensor, weighed: Tensor, *, soft: bool, smoothing: float) -> float | Missing:
    """The entropy of the classes' mean probabilities, in nats.

    Frequencies of a sample have too small an entropy, by (classes seen - 1) / (2 targets) (Miller and Madow 1955).
    """
    targets = float(counted.sum())
    if not soft and float((counted == 1.0).sum()) > SINGLE * targets:
        return TOO_RARE
    mean = (1.0 - smoothing) * weighed / weighed.sum() + smoothing / len(weighed)
    entropy = float(torch.special.entr(mean).sum())
    if entropy <= 0.0:
        return ALL_EQUAL
    plain = not (soft or smoothing or bool((counted != weighed).any()))
    return entropy + (float((counted > 0.0).sum() - 1) / (2.0 * targets) if plain else 0.0)


def _of_elements(count: Tensor, total: Tensor, squares: Tensor) -> float | Missing:
    """The unbiased variance of the targets over rows, the mean over the outputs."""
    rows = float(count[0])
    if rows < 2.0:
        return TOO_FEW
    variance = float(((squares - total.square() / rows) / (rows - 1.0)).mean())
    return variance if variance > 0.0 else ALL_EQUAL
