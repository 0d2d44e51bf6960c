"""The product that is compared before anything is measured on sharded weights."""

import pytest
import torch

from fromage_cli import ranks
from fromage_cli.errors import ResourceError
from fromage_cli.problem.evaluation.shard_check import require_right_products
from fromage_cli.problem.networks import gathering
from tests.forked_ranks import run_ranks


def test_it_passes_on_sound_ranks() -> None:
    assert run_ranks(3, require_right_products, torch.device("cpu")) == [None] * 3


def test_sums_that_are_wrong_on_one_rank_are_found_on_all() -> None:
    """A backend in which one rank adds a millionth too much."""

    def check() -> str:
        right, factor = gathering.rows_added_up, 1.0 + 1e-6 * ranks.current().index

        def wrong(own: torch.Tensor, like: torch.Tensor, number: int) -> torch.Tensor:
            return right(factor * own, like, number)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(ResourceError) as caught:
            patch.setattr(gathering, "rows_added_up", wrong)
            require_right_products(torch.device("cpu"))
        return caught.value.message

    assert all("is wrong on these ranks" in message for message in run_ranks(2, check))
