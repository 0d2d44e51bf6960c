import struct
from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.checkpoints.storage.stored_tensor import (
    OutsideStorage,
    StoredTensor,
    WholeTensor,
    contiguous_strides,
    dense,
    inline,
    stored_number,
)
from fromage_cli.errors import InputError

VALUES = torch.arange(60, dtype=torch.int32)
STORAGE = inline("0", "int32", VALUES.numpy().tobytes())


@given(
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
    strides=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    offset=st.integers(0, 20),
)
@settings(max_examples=300, deadline=None)
def test_views_are_torchs_or_refused(shape, strides, offset):
    stride = tuple(strides[: len(shape)])
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= len(VALUES):
        with pytest.raises(OutsideStorage):
            dense(STORAGE, "int32", offset, shape, stride)
        return
    tensor = dense(STORAGE, "int32", offset, shape, stride)
    read, expected = tensor.read(), VALUES.as_strided(shape, stride, min(offset, 0 if 0 in shape else offset))
    assert torch.equal(read, expected)
    assert read.is_contiguous()
    assert tensor.contiguous == expected.is_contiguous() or 0 in shape
    for begin, end in combinations_with_replacement(range(shape[0] + 1 if shape else 0), 2):
        rows = tensor.rows(begin, end)
        assert torch.equal(rows, read[begin:end])
        assert rows.is_contiguous()
        assert rows.untyped_storage().nbytes() <= 4 * rows.numel()


def test_rows_that_are_not_there():
    matrix = dense(STORAGE, "int32", 0, (6, 10), (10, 1))
    for begin, end in ((-1, 2), (3, 2), (5, 7)):
        with pytest.raises(ValueError, match=rf"shape \[6, 10\] has no rows {begin} to {end}"):
            matrix.rows(begin, end)
    with pytest.raises(ValueError, match=r"shape \[\] has no rows 0 to 0"):
        dense(STORAGE, "int32", 0, (), ()).rows(0, 0)


def test_rows_of_a_tensor_that_is_made_whole_are_a_copy():
    made = torch.arange(12.0).reshape(4, 3)
    rows = WholeTensor("float32", (4, 3), make=lambda: made).rows(1, 3)
    assert torch.equal(rows, made[1:3])
    assert rows.untyped_storage().nbytes() == 24


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "int16", "int8", "bool"])
def test_the_other_byte_order(dtype):
    values = torch.tensor([0, 1, 1, 0]).to(getattr(torch, dtype))
    plain = values.view(torch.uint8).numpy().tobytes()
    width = values.itemsize // 2 if dtype == "complex64" else values.itemsize
    turned = b"".join(plain[begin : begin + width][::-1] for begin in range(0, len(plain), width))
    tensor = dense(inline("0", dtype, turned, big_endian=True), dtype, 0, (4,), (1,))
    assert torch.equal(tensor.read(), values)
    assert torch.equal(tensor.rows(1, 3), values[1:3])


def test_expanded_views_are_written_out_up_to_a_limit():
    storage = inline("0", "float32", struct.pack("<f", 2.0))
    assert dense(storage, "float32", 0, (1000, 3), (0, 0)).read().tolist() == [[2.0] * 3] * 1000
    with pytest.raises(InputError, match="expanded from 4 bytes"):
        dense(storage, "float32", 0, (10**7,), (0,)).read()


def test_what_has_no_elements_of_its_own():
    with pytest.raises(InputError, match="is sparse"):
        StoredTensor("float32", (2, 2), peculiarity="sparse").read()
    with pytest.raises(InputError, match="is sparse"):
        StoredTensor("float32", (2, 2), peculiarity="sparse").rows(0, 1)


def test_a_number():
    assert dense(STORAGE, "int32", 7, (), ()).item() == 7


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "complex64",
        "int64",
        "int16",
        "int8",
        "uint8",
        "uint16",
        "bool",
    ],
)
def test_numbers_are_torchs_whatever_their_dtype_and_byte_order(dtype, big_endian):
    values = torch.tensor([0.0, -1.625, 3.0]).abs().to(getattr(torch, dtype))
    plain = values.view(torch.uint8).numpy()
    if big_endian:
        plain = plain.reshape(-1, values.itemsize // (2 if dtype == "complex64" else 1))[:, ::-1]
    storage = inline("0", dtype, plain.tobytes(), big_endian)
    for index, expected in enumerate(values.tolist()):
        found = dense(storage, dtype, index, (1,), (1,)).item()
        assert found == expected and type(found) is type(expected)


@given(st.integers(0, 20), st.integers(0, 20), st.booleans())
def test_parts_of_a_tensor_are_little_endian(begin, count, big_endian):
    values = VALUES.numpy()
    storage = inline("0", "int32", values.astype(">i4" if big_endian else "<i4").tobytes(), big_endian)
    tensor, part = dense(storage, "int32", 10, (5, 8), (8, 1)), bytearray(4 * count)
    assert tensor.in_order and not dense(storage, "int32", 10, (5, 8), (1, 5)).in_order
    tensor.read_part(begin, memoryview(part))
    assert bytes(part) == values[10 + begin : 10 + begin + count].astype("<i4").tobytes()


@given(st.lists(st.integers(1, 5), max_size=4).map(tuple))
def test_strides_are_torchs(shape):
    assert contiguous_strides(shape) == torch.empty(shape).stride()
    turned = torch.empty(shape[::-1]).permute(tuple(range(len(shape)))[::-1])
    assert contiguous_strides(shape, fortran=True) == turned.stride()


def test_numbers_in_tensors():
    storage = inline("0", "int32", VALUES[7:8].numpy().tobytes())
    assert stored_number(StoredTensor("int32", (), (), 0, storage)) == 7
    assert stored_number(StoredTensor("int32", (1,), (1,), 0, storage)) == 7
    assert stored_number("7") == "7"
    quantised = StoredTensor("qint32", (), (), 0, storage, "quantised")
    assert stored_number(quantised) is quantised
