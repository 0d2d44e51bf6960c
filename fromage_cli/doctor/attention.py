"""Whether second derivatives through attention are right here, kernel by kernel, against the formula written out."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fromage_cli.doctor.result import OWN, Attention
from fromage_cli.errors import words_of
from fromage_cli.missing import Missing, Why
from fromage_cli.problem.conditions.double_backward import double_backward

ALLOWED = 1e-10
"""Relative gap of two products in float64: rounding makes about 1e-15 of it, a missing term about 1."""
BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
SHAPE = (2, 2, 5, 4)
"""Rows, heads, tokens and entries of a head."""
Kernel = Callable[..., Tensor]
Way = Callable[[], AbstractContextManager[Any]]
"""What attention is computed within."""


def attention(device: torch.device) -> tuple[Attention, ...]:
    """Second derivatives by the way of this program, and by every kernel that torch has on this device."""
    kernels = [(name, partial(sdpa_kernel, backend)) for name, backend in BACKENDS.items()]
    ways: list[tuple[str, Way]] = [(OWN, partial(double_backward, nn.Identity())), *kernels]
    return tuple(_compared(device, name, within) for name, within in ways)


def _compared(device: torch.device, name: str, within: Way) -> Attention:
    """One way of computing attention against the formula: the largest gap of plain, causal and masked attention."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(device)

    inputs, vectors = [drawn(*SHAPE).requires_grad_() for _ in "qkv"], [drawn(*SHAPE) for _ in "qkv"]
    cases: list[dict[str, Any]] = [{}, {"is_causal": True}, {"attn_mask": drawn(SHAPE[2], SHAPE[2])}]
    gaps = []
    for settings in cases:
        expected = _product(written_out, inputs, vectors, settings)
        try:
            with within():
                found = _product(functional.scaled_dot_product_attention, inputs, vectors, settings)
        except RuntimeError as error:
            verdict = "refused" if _runs(within, inputs, settings) else "unavailable"
            reason = words_of(error).strip().splitlines()[0][:200].rstrip(".")
            return Attention(str(device), name, verdict, Missing(Why.NO_SECOND_DERIVATIVE, reason))
        gaps += [float((one - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)]
    return Attention(str(device), name, "right" if all(gap <= ALLOWED for gap in gaps) else "wrong", max(gaps))


def _runs(within: Way, inputs: Sequence[Tensor], settings: Mapping[str, Any]) -> bool:
    """Whether a kernel computes attention here, whatever becomes of its derivatives."""
    try:
        with within(), torch.no_grad():
            query, key, value = inputs
            functional.scaled_dot_product_attention(query, key, value, **settings)
    except RuntimeError:
        return False
    return True


def written_out(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Returns softmax(QKᵀ / √d + mask) V, by matrix products, exponentials and sums alone."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.exp()
    if is_causal:
        weights = weights.tril()
    return weights / weights.sum(-1, keepdim=True) @ value


def _product(
    kernel: Kernel, inputs: Sequence[Tensor], vectors: Sequence[Tensor], settings: Mapping[str, Any]
) -> Sequence[Tensor]:
    """The Hessian of the sum of cubes of attention's outputs, times the vectors."""
    loss = kernel(*inputs, **settings).pow(3).sum()
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    slope = torch.stack([(one * other).sum() for one, other in zip(gradients, vectors, strict=True)]).sum()
    return torch.autograd.grad(slope, inputs)
