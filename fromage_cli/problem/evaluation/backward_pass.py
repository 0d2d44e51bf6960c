"""One backward pass over all chunks, each gradient handed over as soon as it is complete."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fromage_cli.errors import FromageError, MismatchError
from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.losses.loss_terms import LossTerms
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.problem.user_code.named_code import (
    error_of_user_code,
    first_line,
    named_code,
    out_of_memory,
    raised_here,
)
from fromage_cli.ranks import ALONE, Ranks

Visitor = Callable[[TrainableTensor, Tensor], None]
"""Called with a tensor and its gradient, which is freed when the call returns."""


class Hooks:
    """Hooks on tensors that tell when a gradient has been added to one of them, until they are removed."""

    def __init__(self, tensors: Sequence[TrainableTensor]) -> None:
        self.watching = bool(tensors)
        """Whether there are any; without, gradients are handed over at the end of a pass."""
        self.arrived: Callable[[TrainableTensor], None] = lambda _: None
        self._handles: list[RemovableHandle] = [
            tensor.parameter.register_post_accumulate_grad_hook(lambda _, tensor=tensor: self.arrived(tensor))  # type: ignore[no-untyped-call]
            for tensor in tensors
        ]

    def remove(self) -> None:
        """Takes them off the tensors."""
        for handle in self._handles:
            handle.remove()


@dataclass
class BackwardPass:
    """One backward pass over all chunks, with hooks that hand each gradient over as soon as it is complete."""

    chunks: Sequence[Batch]
    evaluate: Callable[[Batch], AbstractContextManager[LossTerms]]
    """The loss of a chunk, and the conditions under which its backward pass belongs too."""
    tensors: Sequence[TrainableTensor]
    deferred: Collection[str]
    """Names of tensors whose gradient arrives in several parts, so that it is handed over at the end."""
    visit: Visitor
    scalar: Callable[[Tensor], Tensor] = lambda loss: loss
    """What the gradient is taken of; linear in the loss."""
    ranks: Ranks = ALONE
    """The processes that add their gradients up; then all are handed over at the end, in the order of the tensors.

    Where weights are sharded, each gradient has been added up when it arrives.
    """
    _last: bool = field(default=False, init=False)
    """Whether the pass is over the last chunk, so that a gradient that arrives is complete."""
    _divisor: float = field(default=1.0, init=False)

    def run(self) -> float:
        """The loss; every gradient has been visited when it returns.

        Of several chunks, or ranks, the totals are differentiated, and each gradient is divided by their count in the
        end. Of one chunk the mean is, so that no division is needed. So it is where each rank has one and the weights
        are sharded: the count of all is known before the backward pass.
        """
        with failing_together(self.ranks):
            total, count = self._over_chunks()
        if self.ranks.several and not self.ranks.sharded:
            total, self._divisor = self._add_up(total, count)
            count = self._divisor
        for tensor in self.tensors:  # what did not arrive whole
            self._hand_over(tensor)
        return total / require_count(count)

    def _over_chunks(self) -> tuple[float, float]:
        """Leaves the gradient of this rank's rows in `.grad`, and gives their total and count.

        Where weights are sharded, those of all ranks.
        """
        sharded = self.ranks.sharded
        several = len(self.chunks) > 1 or (self.ranks.several and not sharded)
        total = count = 0.0
        for index, chunk in enumerate(self.chunks):
            earlier = self._gradients_replaced([None] * len(self.tensors))
            with self.evaluate(chunk) as terms:
                self._gradients_replaced(earlier)  # by which those of a pass that the loss itself ran are gone
                last = index == len(self.chunks) - 1
                self._last = last and (sharded or not self.ranks.several)
                total += float(terms.total.detach())
                count += terms.count
                if last and sharded:
                    total, count = self.ranks.sums([total, count])
                require_count(count, 2 if several else 1)
                self._divisor = count if several else 1.0
                # not as an argument of backward(), for which torch imports its symbolic shapes: a third of a second
                _run_backward(self.scalar(terms.total * (1.0 if several else 1.0 / count)))
        return total, count

    def arrived(self, tensor: TrainableTensor) -> None:
        """Hands over the gradient of a tensor that nothing more will be added to."""
        if self._last and tensor.name not in self.deferred:
            self._hand_over(tensor)

    def _add_up(self, total: float, count: float) -> tuple[float, float]:
        """Let every gradient become its sum over all ranks; their total and count.

        A tensor has one where it has one on any rank.
        """
        there = [float(tensor.parameter.grad is not None) for tensor in self.tensors]
        total, count, *anywhere = self.ranks.sums([total, count, *there])
        received = [tensor for tensor, found in zip(self.tensors, anywhere, strict=True) if found]
        with failing_together(self.ranks):
            for tensor in received:
                own = tensor.parameter.grad
                if own is None:
                    tensor.parameter.grad = torch.zeros_like(tensor.parameter)
                elif own.is_sparse:
                    tensor.parameter.grad = own.to_dense()
        self.ranks.add_up([tensor.parameter.grad for tensor in received if tensor.parameter.grad is not None])
        return total, require_count(count)

    def _gradients_replaced(self, others: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Puts others in the places of the gradients that are there, and gives these."""
        there = [tensor.parameter.grad for tensor in self.tensors]
        for tensor, other in zip(self.tensors, others, strict=True):
            tensor.parameter.grad = other
        return there

    def _hand_over(self, tensor: TrainableTensor) -> None:
        gradient = tensor.parameter.grad
        if gradient is None:
            return
        tensor.parameter.grad = None
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        self.visit(tensor, gradient.div_(self._divisor) if self._divisor != 1.0 else gradient)


def _run_backward(loss: Tensor) -> None:
    """Gradients of the loss in `.grad`; a failure of the model's graph is explained, not one of hooks.

    Raises MismatchError.
    """
    try:
        with named_code("computing the gradient", passing=(Exception,)):
            loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        if isinstance(error, FromageError) or raised_here(error):
            raise
        if out_of_memory(error):
            raise error_of_user_code(error, "computing the gradient") from error
        state = "A model that keeps state between calls needs a --loss file.py:function that resets it. "
        raise MismatchError(
            f"{type(error).__name__} while computing the gradient: {first_line(error)}",
            (state if isinstance(error, RuntimeError) else "") + "--debug shows the traceback.",
        ) from error


def require_count(count: float, chunks: int = 1) -> float:
    """The loss's denominator. Raises MismatchError when nothing counts; a chunk of several may count nothing."""
    if count == 0.0 and chunks == 1:
        raise MismatchError(
            "Every target of the batch is ignored, so there is no loss.", "Give rows with targets, or a larger batch."
        )
    return count
