import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.checkpoints.formats.flat_tensor import FlatVector, is_vector
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, inline
from fromage_cli.errors import InputError


def stored(values: torch.Tensor, offset: int = 0) -> StoredTensor:
    storage = inline("0", "float32", torch.cat([torch.zeros(offset), values.flatten()]).numpy().tobytes())
    return StoredTensor("float32", tuple(values.shape), values.stride(), offset, storage)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.data())
def test_any_stretch_of_any_vectors(sizes, data):
    whole = torch.randn(sum(sizes))
    begin = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - begin))
    vector = FlatVector(tuple(stored(part, offset=3) for part in whole.split(sizes)))
    assert vector.size == len(whole)
    tensor, expected = vector.tensor(begin, (count, 1)), whole[begin : begin + count, None]
    assert torch.equal(tensor.read(), expected)
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    part = bytearray(4 * (last - first))
    tensor.read_part(first, memoryview(part))
    assert bytes(part) == expected[first:last].numpy().tobytes()


def test_parts_of_several_dtypes_are_refused():
    wide = StoredTensor("float64", (2,), (1,), 0, inline("1", "float64", bytes(16)))
    with pytest.raises(InputError, match="of float32 has parts of float64"):
        FlatVector((stored(torch.ones(2)), wide)).tensor(0, (4,)).read()


def test_parts_that_are_too_short_are_refused():
    tensor = FlatVector((stored(torch.ones(2)), stored(torch.ones(1)))).tensor(0, (2, 2))
    for read in (tensor.read, lambda: tensor.read_part(0, memoryview(bytearray(4)))):
        with pytest.raises(InputError, match="has parts of 3 elements, not 4"):
            read()


def test_what_is_a_vector():
    assert is_vector(stored(torch.ones(3)))
    assert not is_vector(stored(torch.ones(3, 1)))
    assert not is_vector(stored(torch.ones(())))
    assert not is_vector(3.0)
