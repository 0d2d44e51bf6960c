import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.magnitudes import Magnitudes, Workspace


def reduced(values, dtype="float64") -> Magnitudes:
    entries = np.array(values, dtype=dtype)
    return Workspace(max(entries.size, 1)).magnitudes(entries)


def test_a_closed_form():
    assert reduced([3.0, 0.0, -4.0, -0.0]) == Magnitudes(4, 5.0, 4.0, 2)
    assert reduced([3.0, 0.0, -4.0, -0.0]).root_mean_square == 2.5


def test_nothing_and_zeros():
    assert reduced([]) == Magnitudes()
    assert Magnitudes().root_mean_square == 0.0
    assert reduced([0.0, -0.0]) == Magnitudes(2, 0.0, 0.0, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_is_counted(dtype):
    found = reduced([1.0, math.nan, math.inf, -math.inf, 0.0], dtype)
    assert (found.nan, found.infinite, found.nonfinite, found.zeros) == (1, 2, 3, 1)
    assert math.isnan(found.norm) and math.isnan(found.largest)
    assert reduced([1.0, -math.inf], dtype).norm == math.inf


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 1e30), ("float32", 1e-30), ("float64", 1e300), ("float64", 1e-300)]
)
def test_squares_neither_overflow_nor_vanish(dtype, value):
    found = reduced([value] * 1600, dtype)
    assert found.norm == pytest.approx(40 * value, rel=1e-6)
    assert found.joined(found).norm == pytest.approx(math.sqrt(3200) * value, rel=1e-6)


def test_equal_float32_entries_lose_no_digits():
    value = float(np.float32(0.1))
    assert reduced([value] * 1_000_003, "float32").norm == pytest.approx(value * math.sqrt(1_000_003), rel=2e-7)


def test_joining_keeps_nan():
    finite, nan = Magnitudes(1, 1.0, 1.0), Magnitudes(1, math.nan, math.nan, 0, 1)
    for joined in (finite.joined(nan), nan.joined(finite)):
        assert math.isnan(joined.norm) and math.isnan(joined.largest) and joined.nonfinite == 1


@given(st.lists(st.floats(-1e6, 1e6), max_size=2000), st.integers(0, 2000))
def test_parts_joined_are_the_whole(values, cut):
    whole, joined = reduced(values), reduced(values[:cut]).joined(reduced(values[cut:]))
    assert joined.norm == pytest.approx(whole.norm, rel=1e-12)
    assert (joined.elements, joined.largest, joined.zeros) == (whole.elements, whole.largest, whole.zeros)
    assert whole.norm == pytest.approx(math.hypot(*values), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("values", [[3.0, -4.0], [0.0, 0.0], [1e30, 1e30], [1e-30, 0.0], [math.inf, 1.0], [math.nan]])
def test_the_norm_alone_is_that_of_the_magnitudes(values, dtype):
    entries = np.array(values, dtype=dtype)
    assert Workspace(2).norm(entries) == pytest.approx(Workspace(2).magnitudes(entries).norm, nan_ok=True)


def rows(values, dtype="float32"):
    entries = np.array(values, dtype=dtype)
    return Workspace(8).rows(entries.reshape(-1), 0, entries.shape[1]).tolist()


def test_rows():
    assert rows([[3.0, 4.0], [0.0, 0.0], [math.inf, 1.0]]) == [5.0, 0.0, math.inf]
    assert rows([[-3.0, 4.0], [0.0, -5.0]]) == [5.0, 5.0]
    assert rows([[1e-30, 1e-30]] * 2) == pytest.approx([2**0.5 * 1e-30] * 2)
    assert rows([[3e300, 4e300], [3e-300, 0.0]], "float64") == pytest.approx([5e300, 0.0])


@pytest.mark.parametrize("length", [1, 511, 8191, 8192, 8193, 17000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_every_length(length, dtype):
    entries = np.random.default_rng(length).normal(size=(3, length)).astype(dtype)
    norms = Workspace(entries.size).rows(entries.reshape(-1), 0, length)
    assert norms == pytest.approx([math.hypot(*map(float, row)) for row in entries], rel=1e-14)


@pytest.mark.parametrize(("begin", "size"), [(2, 3), (2, 20), (5, 2), (5, 9), (7, 6), (0, 4)])
def test_rows_whose_first_and_last_are_not_whole(begin, size):
    entries = np.arange(1.0, 1.0 + size)
    places = (np.arange(size) + begin) // 5
    expected = [math.hypot(*entries[places == row]) for row in np.unique(places)]
    assert Workspace(size).rows(entries, begin, 5) == pytest.approx(expected, rel=1e-14)
