"""Numbers of a problem whose rows are split over real ranks, against those of one process."""

import pytest
import torch

from fromage_cli.problem.conditions.budget import Budget
from tests.forked_ranks import run_ranks
from tests.problem.evaluation.rows_of_ranks import numbers, problem_of

CASES = [
    *((2, "plain"), (3, "uneven"), (2, "micro-batches"), (3, "micro-batches"), (3, "ignored")),
    *((2, "tied"), (2, "one row"), (2, "two batches")),
]


def numbers_of(*cases: str) -> list[dict[str, list[float]]]:
    return [numbers(problem_of(case)) for case in cases]


def require_numbers_of_one_process(count: int, *cases: str) -> None:
    in_one = numbers_of(*cases)  # before ranks begin, so that they find everything loaded
    first, *others = run_ranks(count, numbers_of, *cases)
    assert others == [first] * (count - 1), "every rank has the same bits"
    for alone, together in zip(in_one, first, strict=True):
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            assert together[name] == pytest.approx(expected, rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize(("count", "case"), CASES)
def test_loss_gradient_and_products_are_those_of_one_process(count: int, case: str) -> None:
    require_numbers_of_one_process(count, case)


def test_sixty_four_ranks_share_many_rows_and_few() -> None:
    require_numbers_of_one_process(64, "hundred", "tied")


def test_in_single_precision_they_are_but_for_rounding() -> None:
    def single() -> dict[str, list[float]]:
        return numbers(problem_of("hundred", torch.float32))

    alone, (together, *_) = single(), run_ranks(3, single)
    for name, expected in alone.items():
        largest = max(abs(value) for value in expected)
        assert together[name] == pytest.approx(expected, rel=1e-6, abs=1e-6 * largest), name


def test_ranks_with_different_numbers_of_chunks_look_at_limits_together() -> None:
    """Ten rows of three ranks are 3, 3 and 4: with chunks of 3 one of them has two, and the others one."""

    def limited() -> list[float]:
        problem = problem_of("plain")
        problem.micro_batch, problem.budget = 3, Budget(seconds=3600.0)
        return [x for values in numbers(problem).values() for x in values]

    first, *others = run_ranks(3, limited)
    assert others == [first] * 2
