"""Memory that runs out on one of several ranks."""

import pytest
import torch

from fromage_cli import ranks
from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.ranks import ALONE, OutOfMemoryOfRanks
from tests.forked_ranks import run_ranks


def test_all_ranks_hear_of_it_also_those_that_are_about_to_make_a_sum() -> None:
    def check(sharded: bool) -> list[str]:
        found = ranks.shard() if sharded else ranks.current()
        raised = []
        for culprit in range(3):
            try:
                with failing_together(found):
                    if found.index == culprit:
                        raise torch.OutOfMemoryError("Tried to allocate 3 GiB")
                found.sums([1.0])
            except Exception as error:
                raised.append(type(error).__name__)
        return [*raised, str(found.sums([1.0]))]

    elsewhere = OutOfMemoryOfRanks.__name__
    assert run_ranks(3, check, True) == [[elsewhere] * 3 + ["[3.0]"]] * 3
    for index, names in enumerate(run_ranks(3, check, False)):
        expected = [elsewhere] * 3
        expected[index] = "OutOfMemoryError"
        assert names == [*expected, "[3.0]"]


def test_one_process_raises_what_came() -> None:
    with pytest.raises(torch.OutOfMemoryError), failing_together(ALONE):
        raise torch.OutOfMemoryError("Tried to allocate 3 GiB")


def test_other_errors_are_no_matter_of_memory() -> None:
    with pytest.raises(ValueError, match="no"), failing_together(ALONE):
        raise ValueError("no")


@pytest.mark.parametrize("sharded", [False, True])
def test_an_evaluation_that_fails_on_one_rank_fails_on_all(sharded: bool) -> None:
    """So a caller that goes on without it does so on all of them."""

    def check() -> list[str]:
        found = ranks.shard() if sharded else ranks.current()
        raised = []
        for culprit in range(2):
            with pytest.raises(MismatchError) as caught:
                with failing_together(found), failing_together(found):  # one evaluation within another
                    if found.index == culprit:
                        raise MismatchError("The loss has no second derivative.")
                found.sums([1.0])
            raised.append(caught.value.message)
        return [*raised, str(found.sums([1.0]))]

    own, told = "The loss has no second derivative.", "Rank {}: The loss has no second derivative."
    assert run_ranks(2, check) == [[own, told.format(1), "[2.0]"], [told.format(0), own, "[2.0]"]]
