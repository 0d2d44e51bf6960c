"""Norms and inner products of large tensors, accumulated in float64 over chunks.

`Tensor.norm` in float32 loses accuracy with size (3.5e-3 at 45 million elements); these sums do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fromage_cli.shards import added_up, added_up_together, is_sharded, own_part

if TYPE_CHECKING:
    import torch

CHUNK = 1 << 16
"""Elements reduced at a time on the CPU: two float64 copies of a chunk stay in the cache."""
ACCELERATOR_CHUNK = 1 << 24
"""Elements reduced at a time elsewhere, where each launch costs more than it reads."""
WIDE_BYTES = 4
"""Bytes of an entry from which on a difference keeps enough digits in its own type."""

ROW = 256
"""Float32 differences whose norm is taken in float32: half the time of widening each."""
LEAST_SQUARE = 1e-20
"""A sum of squares above this has lost nothing to those that are too small for float32, 1e-38 each."""


def inner_product(first: torch.Tensor, second: torch.Tensor) -> float:
    """The sum of products of two real tensors of one shape, in float64."""
    return _reduce(lambda a, b: a.reshape(-1).double() @ b.reshape(-1).double(), first.detach(), second.detach())


def squared_norm(tensor: torch.Tensor) -> float:
    """The squared Frobenius norm of a real tensor, in float64."""
    return _reduce(_square, tensor.detach())


def norm(tensor: torch.Tensor) -> float:
    """The Frobenius norm of a real tensor, in float64."""
    return math.sqrt(squared_norm(tensor))


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """The Frobenius norm of the difference of two real tensors of one shape, accumulated in float64.

    Differences of float32 entries are rounded to float32, 6e-8 of each. Of large tensors the norms of each ROW of them
    are rounded too, unless they leave its range. Narrower entries are widened before.
    """
    import torch

    first, second = first.detach(), second.detach()
    if first.dtype == torch.float32 and first.numel() > CHUNK:
        parts = own_part(first).reshape(-1), own_part(second).reshape(-1)
        squared = float(added_up(torch.tensor(_squared_distance_by_rows(*parts), dtype=torch.float64), first))
        if LEAST_SQUARE < squared < math.inf:
            return math.sqrt(squared)
    wide = first.element_size() >= WIDE_BYTES
    return math.sqrt(_reduce(lambda a, b: _square(a - b if wide else a.double() - b), first, second))


def distances(firsts: list[torch.Tensor], seconds: list[torch.Tensor]) -> list[float]:
    """`distance` of many small tensors, pair by pair: all at once, since each operation costs more than their entries.

    Their differences are held together. All have entries of one type, float32 or wider.
    """
    import torch

    if not firsts:
        return []
    parts = [own_part(tensor) for tensor in firsts], [own_part(tensor) for tensor in seconds]
    found = torch._foreach_norm(torch._foreach_sub(*parts), 2, torch.float64)
    norms = torch.stack([norm.to(parts[0][0].device) for norm in found])
    if any(map(is_sharded, firsts)):
        norms = added_up_together(norms.square().cpu(), firsts).sqrt()
    return [float(norm) for norm in norms.tolist()]


def _square(tensor: torch.Tensor) -> torch.Tensor:
    wide = tensor.reshape(-1).double()
    return wide @ wide


def _squared_distance_by_rows(first: torch.Tensor, second: torch.Tensor) -> float:
    import torch

    whole = len(first) - len(first) % ROW
    firsts, seconds = first[:whole].view(-1, ROW), second[:whole].view(-1, ROW)
    norms = torch.empty(len(firsts), device=first.device)
    step = (2 * CHUNK if first.device.type == "cpu" else ACCELERATOR_CHUNK) // ROW
    for start in range(0, len(firsts), step):
        rows = slice(start, start + step)
        torch.linalg.vector_norm(firsts[rows] - seconds[rows], dim=1, out=norms[rows])
    return squared_norm(norms) + squared_norm(first[whole:] - second[whole:])


def _reduce(term: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> float:
    """The sum of `term` over chunks of flat tensors; of small ones, which are many, without a detour.

    Of tensors that are spread over ranks each adds up its own part, and then all of them.
    """
    if is_sharded(tensors[0]):
        own = _reduce(term, *(own_part(tensor) for tensor in tensors))
        import torch

        return float(added_up(torch.tensor(own, dtype=torch.float64), tensors[0]))
    if tensors[0].numel() <= CHUNK:
        return float(term(*tensors))
    import torch

    size = CHUNK if tensors[0].device.type == "cpu" else ACCELERATOR_CHUNK
    columns = [torch.split(tensor.reshape(-1), size) for tensor in tensors]
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device)
    for chunks in zip(*columns, strict=True):
        total += term(*chunks)  # parts that are kept would lie between the copies, whose memory could not be used again
    return float(total)
