import io

import numpy
import pytest

from fromage_cli.checkpoints.formats.npy_header import read_array_header


def header(value):
    stream = io.BytesIO()
    numpy.save(stream, value, allow_pickle=True)
    content = stream.getvalue()
    return read_array_header(lambda count: content[:count]), len(content)


@pytest.mark.parametrize("code", ["<f8", ">f4", "<f2", "<c16", "?", "<i8", ">i2", "i1", "<u4", "u1"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4), (2, 3, 4)])
def test_numpys_headers(code, shape):
    array = numpy.zeros(shape, code)
    found, size = header(array)
    assert (found.dtype, found.shape, found.big_endian) == (array.dtype.name, shape, code.startswith(">"))
    assert found.begin + found.size == size
    found, _ = header(numpy.asfortranarray(array))
    if 0 not in shape:
        assert found.stride == tuple(step // array.itemsize for step in numpy.asfortranarray(array).strides)


@pytest.mark.parametrize(
    ("value", "objects"),
    [
        (numpy.array(["text"]), False),
        (numpy.array([b"text"]), False),
        (numpy.array(["2020-01-01"], "datetime64[D]"), False),
        (numpy.zeros(2, [("a", "f4"), ("b", "i4", (2,))]), False),
        (numpy.array([None]), True),
        (numpy.array([(1.0, None)], [("a", "f4"), ("b", "O")]), True),
        (numpy.zeros(2, "f16"), False),
    ],
)
def test_arrays_that_are_no_plain_numbers(value, objects):
    found, _ = header(value)
    assert (found.dtype, found.objects) == (None, objects)
