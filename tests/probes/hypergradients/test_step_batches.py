"""Which rows each step sees."""

import torch

from fromage_cli.probes.hypergradients.step_batches import step_batches
from fromage_cli.problem.data.batches import Batch, as_batch, numbered


def batch(rows: int) -> Batch:
    return as_batch({"x": torch.arange(float(rows)), "y": 10 * torch.arange(rows)}, "rows")


def rows_of(one: Batch) -> list[int]:
    assert one.data["y"].tolist() == [10 * row for row in one.data["x"].tolist()]
    return [int(row) for row in one.data["x"].tolist()]


def test_several_batches_come_in_turn() -> None:
    available = numbered([batch(4), batch(4), batch(4)])
    found = step_batches(available, 7, size=2)
    assert [one.first for one in found.batches] == [0, 4, 8, 0, 4, 8, 0]
    assert found.source == "on 3 batches of 4 rows in turn"


def test_only_batches_that_are_used_count() -> None:
    available = numbered([batch(4), batch(4), batch(4)])
    assert step_batches(available, 2).source == "on 2 batches of 4 rows in turn"
    assert step_batches(available, 1).source == "on a batch of 4 rows"


def test_another_draw_takes_them_in_another_order() -> None:
    available = numbered([batch(4) for _ in range(9)])
    first, other = (step_batches(available, 18, draw=draw).batches for draw in (1, 2))
    for taken in (first, other):
        assert sorted(one.first for one in taken[:9]) == [one.first for one in available]
        assert taken[:9] == taken[9:]
    assert len({tuple(one.first for one in taken) for taken in (first, other, available)}) == 3
    rows = [[rows_of(one) for one in step_batches([batch(10)], 4, size=3, draw=draw).batches] for draw in range(3)]
    assert rows[0] != rows[1] != rows[2] != rows[0]


def test_a_single_batch_is_taken_whole_unless_training_batches_are_smaller() -> None:
    for size in (None, 6, 7):
        found = step_batches([batch(6)], 3, size=size)
        assert [rows_of(one) for one in found.batches] == [list(range(6))] * 3
        assert found.source == "each on all 6 rows"


def test_rows_are_drawn_without_repeats_in_a_pass() -> None:
    found = step_batches([batch(10)], 9, size=3)
    assert found.source == "each on 3 of 10 rows, drawn without repeats"
    drawn = [rows_of(one) for one in found.batches]
    assert all(one.size == len(rows) == 3 for one, rows in zip(found.batches, drawn, strict=True))
    for first in range(0, 9, 3):  # three batches are a pass, and a row is left over
        assert len({row for rows in drawn[first : first + 3] for row in rows}) == 9
    assert len({tuple(rows) for rows in drawn}) == 9


def test_steps_are_numbered_on_so_that_each_draws_numbers_of_its_own() -> None:
    found = step_batches([batch(10)], 5, size=3)
    assert [one.first for one in found.batches] == [0, 3, 6, 9, 12]
    assert len({one.seed(7) for one in found.batches}) == 5


def test_the_rows_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = [rows_of(one) for one in step_batches([batch(10)], 4, size=3, seed=5).batches]
    torch.manual_seed(2)
    assert [rows_of(one) for one in step_batches([batch(10)], 4, size=3, seed=5).batches] == first
    assert [rows_of(one) for one in step_batches([batch(10)], 4, size=3, seed=6).batches] != first
    assert [rows_of(one) for one in step_batches([batch(10)], 2, size=3, seed=5).batches] == first[:2]
