"""Numbers of a problem whose rows are split over real ranks, against those of one process."""

import pytest
import torch

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.budget import Budget
from tests.forked_ranks import LIMIT, run_ranks
from tests.problem.evaluation.rows_of_ranks import numbers, problem_of

CASES = [
    *((2, "plain"), (3, "uneven"), (2, "micro-batches"), (3, "micro-batches"), (3, "ignored")),
    *((2, "tied"), (2, "one row"), (2, "two batches"), (3, "memory")),
]


def numbers_of(sharded: bool, *cases: str) -> list[dict[str, list[float]]]:
    return [numbers(problem_of(case, sharded=sharded)) for case in cases]


def require_numbers_of_one_process(count: int, *cases: str, sharded: bool = False, limit: float = LIMIT) -> None:
    in_one = numbers_of(False, *cases)  # before ranks begin, so that they find everything loaded
    first, *others = run_ranks(count, numbers_of, sharded, *cases, limit=limit)
    assert others == [first] * (count - 1), "every rank has the same bits"
    for alone, together in zip(in_one, first, strict=True):
        assert together.keys() <= alone.keys()
        for name, found in together.items():
            assert found == pytest.approx(alone[name], rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize(("count", "case"), CASES)
def test_loss_gradient_and_products_are_those_of_one_process(count: int, case: str) -> None:
    require_numbers_of_one_process(count, case)


@pytest.mark.parametrize(
    ("count", "case"), [*((2, "tied, one way"), (3, "residual")), *(each for each in CASES if each[1] != "tied")]
)
def test_so_they_are_where_each_rank_holds_a_part_of_every_weight(count: int, case: str) -> None:
    require_numbers_of_one_process(count, case, sharded=True)


def test_a_sharded_network_that_chooses_layers_by_its_rows_is_refused_on_every_rank() -> None:
    def refused() -> str:
        with pytest.raises(MismatchError, match="different ways") as caught:
            numbers(problem_of("tied", sharded=True))
        return caught.value.hint or ""

    assert (
        run_ranks(2, refused)
        == ["A network that chooses layers by its data cannot be sharded. Compute without --shard."] * 2
    )


def test_sixty_four_ranks_share_many_rows_and_few() -> None:
    require_numbers_of_one_process(64, "hundred", "tied", limit=240.0)


def test_twelve_ranks_share_weights_of_which_most_have_fewer_rows() -> None:
    require_numbers_of_one_process(12, "hundred", "uneven", sharded=True, limit=240.0)


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
