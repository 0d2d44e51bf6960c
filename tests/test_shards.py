"""Tensors that real ranks hold in parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from fromage_cli import ranks, shards
from fromage_cli.errors import MismatchError
from fromage_cli.theory import accumulation
from tests.forked_ranks import run_ranks

SHAPES = ((6, 3), (7, 2), (2, 5), (4,), (1, 3))


def spread(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor, and the same over the ranks at hand."""
    tensor = torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64).view(shape)
    return tensor, distribute_tensor(tensor, init_device_mesh("cpu", (ranks.current().count,)), [Shard(0)])


@given(rows=st.integers(0, 200), count=st.integers(1, 64))
def test_parts_follow_each_other_as_torch_cuts_them(rows: int, count: int) -> None:
    parts = [shards.own_rows(rows, count, index) for index in range(count)]
    assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])]
    assert parts[-1][1] == rows
    sizes = [len(part) for part in torch.arange(rows).chunk(count)] if rows else []
    assert [end - begin for begin, end in parts if end > begin] == sizes


def test_own_parts_make_the_whole_again() -> None:
    def check() -> bool:
        for shape in SHAPES:
            tensor, its = spread(shape)
            begin, end = shards.rows_of(its)
            assert torch.equal(shards.own_part(its), tensor[begin:end])
            assert torch.equal(shards.whole(its), tensor)
            assert torch.equal(shards.whole(shards.spread_as(its, tensor[begin:end])), tensor)
            assert torch.equal(shards.whole(shards.part_as(its, tensor)), tensor)
            assert torch.equal(shards.whole(shards.rows_added_up(tensor, its, 1)), ranks.current().count * tensor)
        return True

    assert all(run_ranks(3, check))
    assert all(run_ranks(2, check))


def test_a_tensor_of_one_process_is_left_as_it_is() -> None:
    tensor = torch.ones(3)
    assert shards.own_part(tensor) is shards.whole(tensor) is shards.part_as(tensor, tensor) is tensor
    assert not shards.is_sharded(tensor)
    assert torch.equal(shards.joined(tensor, [tensor, 2.0 * tensor]), torch.cat([tensor, 2.0 * tensor]))


def test_norms_are_those_of_the_whole() -> None:
    def check() -> list[float]:
        pairs = [spread(shape) for shape in SHAPES]
        vector = shards.joined(pairs[0][1], [its for _, its in pairs])
        assert vector.numel() == sum(tensor.numel() for tensor, _ in pairs)
        found = [accumulation.norm(its) - accumulation.norm(tensor) for tensor, its in pairs]
        found += [accumulation.inner_product(its, its) - accumulation.inner_product(t, t) for t, its in pairs]
        found += [accumulation.distance(its, 2.0 * its) - accumulation.distance(t, 2.0 * t) for t, its in pairs]
        together = accumulation.distances([its for _, its in pairs], [3.0 * its for _, its in pairs])
        found += [one - accumulation.distance(t, 3.0 * t) for one, (t, _) in zip(together, pairs, strict=True)]
        return [*found, accumulation.norm(vector) - sum(accumulation.squared_norm(t) for t, _ in pairs) ** 0.5]

    for found in run_ranks(3, check):
        assert found == pytest.approx([0.0] * len(found), abs=1e-12)


def test_ranks_that_are_about_to_make_different_sums_say_so() -> None:
    def check() -> str:
        with pytest.raises(MismatchError) as caught:
            shards.together(ranks.current().index, lambda: None)
        return caught.value.message

    assert all("different ways" in message for message in run_ranks(3, check))
