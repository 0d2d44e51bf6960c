"""What makes derivatives of a backward pass right: kernels that have them, and formulas where a kernel's are wrong."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fromage_cli.errors import MismatchError, words_of
from fromage_cli.problem.conditions.evaluation import scripted_from
from fromage_cli.problem.conditions.replaced_calls import ReplacedCalls
from fromage_cli.problem.user_code.named_code import out_of_memory


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Kernels that have a second derivative: attention by matrix products, recurrences unfused.

    The libraries whose recurrences have none are left on for other models: convolutions are several times slower
    without them.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        recurrent = {"RNN", "LSTM", "GRU"}
        if any(isinstance(module, nn.RNNBase) or scripted_from(module) in recurrent for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


@contextmanager
def double_backward(model: nn.Module) -> Iterator[None]:
    """The conditions under which a forward pass is made whose gradient is to be differentiated."""
    with twice_differentiable(model), ReplacedCalls(FORMULAS, recomputed=True):
        yield


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Weight normalisation as v * (g / ||v||): torch's kernel takes ||v|| as fixed in the derivative of its gradient.

    That makes Hessian-vector products silently wrong in the rows of v, by two thirds in one case.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _attention(query: Tensor, key: Tensor, value: Tensor, *more: Any, **named: Any) -> Tensor:
    """Returns softmax(QKᵀ / √d) V where nothing is masked but the future: torch also looks for rows without a key."""
    others = named.get("attn_mask") is not None or named.get("dropout_p") or named.get("enable_gqa")
    if more or others or query.is_nested:
        found: Tensor = scaled_dot_product_attention(query, key, value, *more, **named)
        return found
    scale = named.get("scale")
    scores: Tensor = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if named.get("is_causal"):
        scores += scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    return scores.softmax(-1) @ value


FORMULAS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    scaled_dot_product_attention: _attention,
}
"""By the function of torch."""


@contextmanager
def second_derivative_explained(also: type[Exception] = RuntimeError) -> Iterator[None]:
    """Makes one MismatchError of a RuntimeError, and of `also`, in a loss that is differentiated twice.

    It says what torch or the user's code says of it.
    """
    try:
        yield
    except (RuntimeError, also) as error:
        if out_of_memory(error):
            raise
        reason = next((line for line in words_of(error).splitlines() if line), type(error).__name__)
        raise MismatchError(
            f"The loss has no second derivative: {reason}", "An operation of the model supports only one backward pass."
        ) from error
