"""Calls of torch's functions whose arguments are looked at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


def looked_at(function: Function, look: Callable[..., None]) -> Function:
    """The function; what it was called with is then handed to `look`, without a graph.

    Calls with tensors that hold no numbers of their own (within `vmap`, nested, on `meta`) are made unseen.
    """

    def seen(*arguments: Any, **named: Any) -> Any:
        found = function(*arguments, **named)
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
        if all(map(_holds_numbers, tensors)):
            with torch.no_grad():
                look(*arguments, **named)
        return found

    return seen


def _holds_numbers(tensor: Tensor) -> bool:
    return not (tensor.is_nested or tensor.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is that already."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
