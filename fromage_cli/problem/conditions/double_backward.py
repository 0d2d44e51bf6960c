"""What makes derivatives of a backward pass right: kernels that have them, and formulas where a kernel's are wrong."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fromage_cli.errors import FromageError, MismatchError
from fromage_cli.problem.conditions.evaluation import twice_differentiable
from fromage_cli.problem.user_code.named_code import out_of_memory


@contextmanager
def double_backward(model: nn.Module) -> Iterator[None]:
    """The conditions under which a forward pass is made whose gradient is to be differentiated."""
    with twice_differentiable(model), _WeightNormByFormula():
        yield


class _WeightNormByFormula(TorchFunctionMode):
    """Weight normalisation as v * (g / ||v||): torch's kernel takes ||v|| as fixed in the derivative of its gradient.

    That makes Hessian-vector products silently wrong in the rows of v, by two thirds in one case.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Takes the place of every call of torch while the context lasts."""
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


@contextmanager
def explained() -> Iterator[None]:
    """A failing second derivative as a MismatchError."""
    try:
        yield
    except FromageError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        raise without_second_derivative(error) from error


def without_second_derivative(error: Exception) -> MismatchError:
    """The error for a loss that can be differentiated only once, with what torch or the user's code says of it."""
    reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
    return MismatchError(
        f"The loss has no second derivative: {reason}", "An operation of the model supports only one backward pass."
    )
