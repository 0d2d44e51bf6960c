from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from fromage_cli.errors import InputError
from fromage_cli.problem.data.pytrees import (
    as_tensors,
    checksum,
    describe_shapes,
    in_precision,
    map_tensors,
    named_tensors,
)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def pytree() -> dict[str, Any]:
    return {
        "x": torch.ones(4, 3),
        "pair": Pair(torch.arange(4), torch.ones(4, 1)),
        "more": [{"z": torch.zeros(4)}, None],
    }


def test_tensors_are_named_by_their_path() -> None:
    assert [name for name, _ in named_tensors(pytree())] == ["x", "pair[0]", "pair[1]", "more[0].z"]
    assert describe_shapes({"x": torch.ones(2, 3)}) == "x float32[2, 3]"
    assert describe_shapes([torch.ones(1)] * 8).endswith("and 2 more")
    assert describe_shapes({"x\nhint: run this": torch.ones(1)}) == r"'x\nhint: run this' float32[1]"


def test_containers_keep_their_kinds_and_are_new() -> None:
    data = pytree()
    mapped = map_tensors(data, lambda tensor: tensor + 1)
    assert isinstance(mapped["pair"], Pair) and mapped["pair"].first.tolist() == [1, 2, 3, 4]
    assert mapped["more"][1] is None and mapped["more"] is not data["more"]
    assert float(data["x"].mean()) == 1.0


def test_precision_is_that_of_floating_numbers_and_of_parts_of_complex_ones() -> None:
    for dtype, found in (
        (torch.float32, torch.float64),
        (torch.complex64, torch.complex128),
        (torch.int32, torch.int32),
    ):
        assert in_precision(torch.ones(2, dtype=dtype), torch.float64).dtype is found


def test_arrays_are_copied_in_the_machines_order_and_must_be_numbers() -> None:
    array = np.arange(3, dtype=">i4")
    tensor = as_tensors([array])[0]
    array[:] = 0
    assert tensor.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="expected numbers"):
        as_tensors(np.array(["a"]))


def test_a_checksum_is_of_names_and_bytes_in_any_order():
    tensors = [("b", torch.arange(3.0)), ("a", torch.tensor([1, 2])), ("none", torch.zeros(0))]
    assert checksum(tensors) == checksum(reversed(tensors)) < 2**32
    for other in ([("b", torch.arange(3.0).flip(0)), *tensors[1:]], [("c", tensors[0][1]), *tensors[1:]], tensors[1:]):
        assert checksum(other) != checksum(tensors)
    turned = torch.arange(6).view(2, 3).t()
    assert checksum([("t", turned)]) == checksum([("t", turned.contiguous())])
