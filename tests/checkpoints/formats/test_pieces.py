from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.checkpoints.formats.pieces import Box, PiecedTensor
from fromage_cli.checkpoints.storage.stored_tensor import contiguous_tensor
from fromage_cli.errors import InputError


def stored(tensor, reads=None):
    """The tensor as a place in a file; the bytes of each read are added to `reads`."""
    inside = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""

    def read_into(begin, view):
        if reads is not None:
            reads.append(len(view))
        view[:] = inside[begin : begin + len(view)]

    return contiguous_tensor(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), read_into)


def box(whole, *spans, reads=None):
    """The box of `whole` between the given begin and end of each dimension."""
    part = whole[tuple(slice(*span) for span in spans)]
    return Box(tuple(begin for begin, _ in spans), tuple(part.shape), lambda: stored(part, reads))


def pieced(shape, *boxes):
    return PiecedTensor("float32", shape, boxes=boxes, name="'w'")


def grid(whole, rows, columns, reads=None):
    """The boxes of a matrix that is cut into so many rows, one after another, and so many columns."""
    tops = [(sum(rows[:i]), sum(rows[: i + 1])) for i in range(len(rows))]
    lefts = [(sum(columns[:i]), sum(columns[: i + 1])) for i in range(len(columns))]
    return [box(whole, top, left, reads=reads) for top in tops for left in lefts]


CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(CUTS, CUTS)
def test_any_grid_of_boxes_is_put_together(rows, columns):
    whole = torch.randn(sum(rows), sum(columns))
    boxes = grid(whole, rows, columns)
    assert torch.equal(pieced(tuple(whole.shape), *reversed(boxes)).read(), whole)
    if len(boxes) > 1:
        with pytest.raises(InputError, match="its number of elements"):
            pieced(tuple(whole.shape), *boxes[1:]).read()


@given(CUTS, CUTS, st.data())
def test_rows_are_read_from_the_pieces_that_hold_them(rows, columns, data):
    whole, reads = torch.randn(sum(rows), sum(columns)), []
    tensor = pieced(tuple(whole.shape), *reversed(grid(whole, rows, columns, reads)))
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    assert torch.equal(tensor.rows(begin, end), whole[begin:end])
    assert sum(reads) == 4 * (end - begin) * whole.shape[1]


def test_rows_of_a_damaged_tensor_are_refused():
    whole = torch.randn(4, 2)
    for boxes in ([box(whole, (0, 2), (0, 2))], [Box((0, 0), (4, 2), lambda: stored(whole[:3]))]):
        with pytest.raises(InputError, match=r"its number of elements|a piece of \[4, 2\] is \[3, 2\]"):
            pieced((4, 2), *boxes).rows(0, 1)


def test_a_scalar_an_empty_tensor_and_empty_pieces():
    assert pieced((), box(torch.tensor(3.0))).read() == 3.0
    assert pieced((0, 4)).read().shape == (0, 4)
    whole = torch.randn(3, 2)
    assert torch.equal(pieced((3, 2), box(whole, (0, 3), (0, 2)), box(whole, (3, 3), (0, 2))).read(), whole)


def test_overlaps_that_leave_gaps_are_refused():
    whole = torch.randn(4, 4)
    twice = [box(whole, (0, 2), (0, 4)), box(whole, (1, 3), (0, 4))]
    corner = [
        box(whole, (0, 3), (0, 3)),
        box(whole, (2, 4), (2, 4)),
        box(whole, (0, 1), (3, 4)),
        box(whole, (3, 4), (0, 2)),
    ]
    for boxes in (twice, corner):
        with pytest.raises(InputError, match="overlap"):
            pieced((4, 4), *boxes).check()


def test_more_pieces_than_can_be_compared_are_refused():
    whole = torch.zeros(1, 4000)
    columns = [box(whole, (0, 1), (column, column + 1)) for column in range(4000)]
    assert pieced((1, 4000), *columns).check()
    corner = stored(torch.zeros((1,) * 11))
    corners = [Box(offsets, (1,) * 11, lambda: corner) for offsets in product(range(2), repeat=11)]
    with pytest.raises(InputError, match="2048 pieces, more than can be checked"):
        pieced((2,) * 11, *corners).check()


def test_pieces_of_another_shape_or_dtype_are_refused():
    wrong = torch.zeros(2, 3, dtype=torch.float64)
    for part, words in [(wrong[:1].float(), r"is \[1, 3\]"), (wrong, "float64")]:
        with pytest.raises(InputError, match=words):
            pieced((2, 3), Box((0, 0), (2, 3), lambda part=part: stored(part))).read()
