"""Numbers of a problem whose rows are split over real ranks, against those of one process."""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from fromage_cli import ranks, shards
from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.networks.sharding import share_weights, spread
from fromage_cli.shards import whole
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


def test_six_ranks_share_weights_of_which_some_have_fewer_rows() -> None:
    require_numbers_of_one_process(6, "uneven", sharded=True, limit=240.0)


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


def test_memory_that_runs_out_where_a_weight_is_gathered_halves_the_chunks_of_all_ranks() -> None:
    """The fourteenth time, which is when the loss is evaluated the first time after the network was put together."""

    def halved() -> int | None:
        right, calls = shards._even, []

        def scarce(tensor: DTensor) -> bool:
            calls.append(tensor)
            if ranks.current().index == 1 and len(calls) == 14:
                raise torch.OutOfMemoryError("Tried to allocate 3 GiB")
            return right(tensor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "_even", scarce)
            problem = problem_of("plain", sharded=True)
        assert len(calls) > 14
        return problem.micro_batch

    assert run_ranks(2, halved) == [3, 3]


class OwnLoss(nn.Module):
    """A network that returns its loss, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss and the scores, (rows, 3)."""
        scores = self.second(self.first(inputs).tanh())
        return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


def of_own_loss(sharded: bool) -> list[float]:
    """Loss and gradient where only the first rank's rows have targets."""
    torch.manual_seed(0)
    network = OwnLoss().double()
    labels = torch.tensor([0, 2, 1, -100, -100, -100])
    batch = Batch({"inputs": torch.randn(6, 4, dtype=torch.float64), "labels": labels}, 6, "here")
    if sharded:
        spread(network, torch.device("cpu"))
        share_weights(network)
    problem = Problem(network, resolve_loss("auto", network, batch), batch)
    gradients = (problem.base.gradients[tensor.name] for tensor in problem.receiving)
    return [problem.base.loss, *(float(x) for each in gradients for x in whole(each).flatten())]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_rank_whose_rows_have_no_target_goes_along_with_a_loss_of_the_models_own(sharded: bool) -> None:
    expected = pytest.approx(of_own_loss(False), rel=1e-12, abs=1e-14)
    assert run_ranks(2, of_own_loss, sharded) == [expected] * 2


def test_dropout_draws_the_same_where_weights_are_sharded() -> None:
    def loss(sharded: bool) -> float:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
        rows = Batch((torch.randn(6, 4, dtype=torch.float64), torch.randint(3, (6,))), 6, "here")
        if sharded:
            spread(network, torch.device("cpu"))
            share_weights(network)
        return Problem(network, resolve_loss("cross-entropy", network, rows), rows, mode="train").base.loss

    shared, held = (run_ranks(2, loss, sharded) for sharded in (False, True))
    assert held == [pytest.approx(shared[0], rel=1e-12)] * 2
