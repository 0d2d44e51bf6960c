"""Copies against each other: exact counts and sizes for every pair of dtypes."""

import math
from pathlib import Path

import numpy
import pytest
import torch

from fromage_cli.checkpoints.checkpoint import Copy, Replica
from fromage_cli.checkpoints.reading.arrays import CHUNK, bytes_of
from fromage_cli.checkpoints.reading.chunks import JOB
from fromage_cli.checkpoints.reading.replicas import Difference, comparable, compare_replicas, difference
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, WholeTensor, contiguous_tensor

FILES = tuple(Path(f"rank{rank}.pt") for rank in range(3))


def stored(tensor: torch.Tensor) -> StoredTensor:
    held = bytes_of(tensor)

    def read_into(begin: int, view: memoryview) -> None:
        view[:] = held[begin : begin + len(view)].tobytes()

    return contiguous_tensor(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), read_into)


def replica(*tensors: torch.Tensor, name: str = "w") -> Replica:
    return Replica(name, tuple(Copy(stored(one), (file,)) for one, file in zip(tensors, FILES, strict=False)))


def between(one: torch.Tensor, other: torch.Tensor) -> Difference:
    names = [str(each.dtype).removeprefix("torch.") for each in (one, other)]
    return difference(bytes_of(one), names[0], bytes_of(other), names[1])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_equal_bits_agree_and_a_flipped_entry_is_counted(dtype: torch.dtype) -> None:
    one = (torch.arange(1, 9) % 2).to(dtype)
    other = one.clone()
    other[3] = 1
    assert between(one, one.clone()) == Difference()
    assert between(one, other) == Difference(1, 1.0)  # 0 against 1


def test_the_largest_relative_difference_is_exact() -> None:
    one = torch.tensor([2.0, -4.0, 8.0])
    assert between(one, torch.tensor([2.0, -3.0, 6.0])) == Difference(2, 0.25)
    assert between(one, torch.tensor([2.0, 4.0, 8.0])) == Difference(1, 2.0)
    huge = torch.tensor([1.5e308, 1.0], dtype=torch.float64)
    assert between(huge, -huge) == Difference(2, 2.0)


def test_not_a_number_equals_itself_alone() -> None:
    one = torch.tensor([math.nan, 1.0, math.inf])
    assert between(one, one.clone()) == Difference()
    assert between(one, torch.tensor([0.0, 1.0, math.inf])) == Difference(1, math.inf)
    assert between(one, one.to(torch.bfloat16)) == Difference()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_rounded_copy_is_that_of_torch(narrow: torch.dtype, wide: torch.dtype) -> None:
    torch.manual_seed(0)
    master = torch.cat([torch.randn(5000) * scale for scale in (1e-40, 1e-7, 1e-3, 1.0, 1e6)]).float()
    copy = master.to(narrow)
    assert between(master.to(wide), copy) == Difference()
    assert between(copy, master.to(wide)) == Difference()
    changed = copy.clone()
    changed.view(torch.int16)[12_000] += 1  # one digit in the last place
    found = between(master.to(wide), changed)
    a, b = copy[12_000].double(), changed[12_000].double()
    expected = float(abs(a - b) / max(abs(a), abs(b)))
    assert found.differ == 1 and found.largest == pytest.approx(expected, rel=1e-12)


def test_another_pair_of_dtypes_is_compared_as_numbers() -> None:
    one = torch.tensor([1.0, 2.0, 3.0])
    assert between(one.to(torch.bfloat16), one.half()) == Difference()
    assert between(one.double(), one.long()) == Difference()


def test_copies_of_many_chunks_are_compared_whole_and_in_parts() -> None:
    entries = JOB + CHUNK + 7
    one = torch.arange(entries, dtype=torch.float32)
    other = one.clone()
    for place in (0, CHUNK, JOB - 1, JOB, entries - 1):
        other[place] += 1.0
    (found,) = compare_replicas([replica(one, one.clone(), other)])
    assert found.difference == Difference(5, 1.0)
    assert found.files == (FILES[0], FILES[2])
    columns = WholeTensor("float32", (entries,), make=lambda: other)
    (found,) = compare_replicas([Replica("w", (Copy(stored(one), FILES[:1]), Copy(columns, FILES[1:2])))])
    assert found.difference == Difference(5, 1.0)


def test_several_replicas_keep_their_own_differences_and_progress() -> None:
    one = torch.ones(4)
    advanced: list[float] = []
    replicas = [replica(one, one), replica(one, one * 2, name="b"), replica(one, torch.ones(2, 2), name="c")]
    found = compare_replicas(replicas, lambda elements, doing: advanced.append(elements))
    assert [each.difference for each in found] == [Difference(), Difference(4, 0.5), None]
    assert found[0].files == FILES[:2]
    assert sum(advanced) == 8
    assert compare_replicas([]) == ()
    (empty,) = compare_replicas([replica(torch.ones(0), torch.ones(0))])
    assert empty.difference == Difference()


def test_copies_that_hold_no_real_numbers_are_left_out() -> None:
    packed = StoredTensor("int8", (2,), peculiarity="quantised")
    whole = replica(torch.ones(2), torch.ones(2))
    odd = Copy(packed, FILES[:1])
    kept = comparable([whole, Replica("q", (odd, odd)), Replica("w", (*whole.copies, odd))])
    assert [len(one.copies) for one in kept] == [2, 2]
    assert comparable([replica(torch.ones(2, dtype=torch.complex64), torch.ones(2))]) == ()
    assert numpy.isfinite(compare_replicas(kept)[0].difference.largest)
