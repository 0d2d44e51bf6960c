"""Tensors whose rows are spread over ranks, as DTensors: each rank's part, sums over all parts, and the whole.

Every rank makes the same sums in the same order. Before each, all say which one is next. So a rank that has gone
another way ends with a sentence, and does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from fromage_cli import ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed.tensor import DTensor

Found = TypeVar("Found")
NAMES_BEFORE = "names_before"
"""Attribute of a parametrisation that makes a whole tensor of what ranks hold: the model's names, in their order."""


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is spread over ranks."""
    return getattr(tensor, "placements", None) is not None


def own_part(tensor: Tensor) -> Tensor:
    """Return the rows that this rank holds; any other tensor as it is. Differentiable, also twice."""
    return cast("DTensor", tensor).to_local() if is_sharded(tensor) else tensor


def own_rows(rows: int, count: int, index: int) -> tuple[int, int]:
    """Return the first and the end of the rows that a rank holds, of so many: equal parts, the last ones smaller."""
    size = -(-rows // count)
    return min(rows, index * size), min(rows, (index + 1) * size)


def rows_of(like: Tensor) -> tuple[int, int]:
    """Return the first and the end of the rows of a tensor spread as this one that this rank holds."""
    spread = cast("DTensor", like)
    if not spread.placements[0].is_shard():
        return 0, like.shape[0] if like.dim() else 1
    mesh = spread.device_mesh
    return own_rows(like.shape[0], mesh.size(), mesh.get_local_rank())


def spread_as(like: Tensor, own: Tensor) -> Tensor:
    """Return a tensor of the shape of `like`, of which this rank has its own part at hand."""
    from torch.distributed.tensor import DTensor

    spread = cast("DTensor", like)
    own = own.contiguous()
    if not like.dim():
        return DTensor.from_local(own, spread.device_mesh, spread.placements, run_check=False)
    stride = contiguous_strides(like.shape)
    return DTensor.from_local(
        own, spread.device_mesh, spread.placements, run_check=False, shape=like.shape, stride=stride
    )


def part_as(like: Tensor, whole: Tensor) -> Tensor:
    """Return the part of a whole tensor that belongs beside `like`: its own rows where that is spread, else all."""
    if not is_sharded(like) or is_sharded(whole):
        return whole
    if not like.dim():
        return spread_as(like, whole)
    begin, end = rows_of(like)
    return spread_as(like, whole[begin:end].clone())


def joined(like: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return one vector of all entries of tensors, each rank's parts one behind the other; `like`: one of them."""
    import torch

    own = torch.cat([own_part(part).detach().reshape(-1) for part in parts])
    if not is_sharded(like):
        return own
    from torch.distributed.tensor import DTensor, Shard  # for a second, so only where it is used

    size = sum(part.numel() for part in parts)
    mesh = cast("DTensor", like).device_mesh
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=torch.Size([size]), stride=(1,))


def added_up(total: Tensor, like: Tensor) -> Tensor:
    """Return the sum over ranks of what each has found in its own part of `like`; of any other tensor as it is."""
    if not is_sharded(like) or not cast("DTensor", like).placements[0].is_shard():
        return total
    from torch import distributed

    total = total.contiguous()
    together(0, lambda: distributed.all_reduce(total))
    return total


def added_up_together(totals: Tensor, likes: Sequence[Tensor]) -> Tensor:
    """Return the same for several numbers at once, one for each of `likes`, [n]; what every rank holds counts once."""
    for place, like in enumerate(likes):
        if not cast("DTensor", like).placements[0].is_shard() and not ranks.current().leads:
            totals[place] = 0.0
    from torch import distributed

    together(0, lambda: distributed.all_reduce(totals))
    return totals


def whole(tensor: Tensor, number: int = 0) -> Tensor:
    """Return all rows of a tensor, on every rank; `number`: which tensor it is, as all ranks count."""
    if not is_sharded(tensor):
        return tensor
    spread = cast("DTensor", tensor)
    if not _even(spread):
        return together(number, spread.full_tensor)
    from torch import distributed

    own = spread.to_local().contiguous()
    found = own.new_empty(tensor.shape)  # before the others wait: here memory may run out
    together(number, lambda: distributed.all_gather_into_tensor(found, own))
    return found


def rows_added_up(own: Tensor, like: Tensor, number: int) -> Tensor:
    """Return the sum over ranks of a tensor that each has whole, spread as `like`; `number`: which tensor it is."""
    import torch
    from torch import distributed
    from torch.distributed.tensor import DTensor, Partial

    spread = cast("DTensor", like)
    if not _even(spread):
        parts = DTensor.from_local(own, spread.device_mesh, [Partial()], run_check=False)
        return together(-number, lambda: parts.redistribute(spread.device_mesh, spread.placements))
    if own.device.type == "cpu":  # gloo adds up all rows sooner than it scatters them
        total = own.clone(memory_format=torch.contiguous_format)
        together(-number, lambda: distributed.all_reduce(total))
        begin, end = rows_of(like)
        return spread_as(like, total[begin:end].clone())
    whole_sum, found = own.contiguous(), own.new_empty(spread.to_local().shape)
    together(-number, lambda: distributed.reduce_scatter_tensor(found, whole_sum))
    return spread_as(like, found)


def _even(tensor: DTensor) -> bool:
    return tensor.placements[0].is_shard() and not tensor.shape[0] % tensor.device_mesh.size()


def together(number: int, act: Callable[[], Found]) -> Found:
    """Do what all ranks do at the same time, once all have said that it is this; `number`: of the tensor, or 0.

    Raises MismatchError where they have not, and RankLost where another rank has ended.
    """
    found = ranks.current()
    try:
        found.require_next(number)
        return act()
    except RuntimeError as error:
        raise found.lost(error) from error


def contiguous_strides(shape: torch.Size) -> tuple[int, ...]:
    """Return the strides of a tensor of that shape whose elements lie one behind the other."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides)
