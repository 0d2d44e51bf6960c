"""A network that needs too much memory for many rows: the numbers are those of chunks that fit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import FromageError, OutOfMemory
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation import streamed_hessian
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.fitting import fitted
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import fit_products
from fromage_cli.problem.losses.losses import resolve_loss

Maker = Callable[..., Problem]
WHOLE_DID_NOT_FIT = "The whole batch did not fit, so chunks of 8 rows were compared with their halves."


class _FailsBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")


class Limited(nn.Module):
    """A perceptron that fails above so many rows: in forward passes, in those with a graph, or in backward passes."""

    def __init__(self, rows: int, where: str = "forward", norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rows, self.where, self.largest = rows, where, 0
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.second = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x)).tanh()
        if len(x) > self.rows:
            if self.where == "forward" or (self.where == "graph" and torch.is_grad_enabled()):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
            if self.where == "backward" and torch.is_grad_enabled():
                hidden = _FailsBackwards.apply(hidden)
        return self.second(hidden)


def numbers(problem: Problem) -> list[Tensor]:
    space = WeightSpace(problem.receiving)
    with hessian(problem, space) as product:
        curved = product(torch.ones(sum(weight.numel() for weight in space.weights)))
    base = problem.base
    return [torch.tensor([base.loss, problem.value()]), *base.gradients.values(), curved]


@pytest.mark.parametrize("where", ["forward", "graph", "backward"])
def test_numbers_are_those_of_an_explicit_micro_batch(
    where: str, make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(Limited(11, where), classification)
    explicit = make_problem(Limited(32), classification, micro_batch=8)
    fitted(problem, problem.require_steadiness)
    for found, expected in zip(numbers(problem), numbers(explicit), strict=True):
        assert torch.equal(found, expected)
    assert problem.micro_batch == 8
    sentence = "The batch did not fit in memory, so it is evaluated in chunks of 8 rows."
    assert problem.fitting == ((sentence, WHOLE_DID_NOT_FIT) if where == "forward" else (sentence,))
    assert explicit.fitting == ()


def test_memory_that_suffices_changes_nothing_and_costs_nothing(
    make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(Limited(32), classification)
    fit_products(problem)
    assert (problem.micro_batch, problem.fitting) == (None, ())
    assert (problem.evaluations.gradients, problem.evaluations.hessian_vector_products) == (1.0, 0.0)


def test_a_micro_batch_that_does_not_fit_is_halved_too(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    problem = make_problem(Limited(11), classification, micro_batch=15)
    assert problem.base.loss == pytest.approx(make_problem(Limited(32), classification).base.loss, rel=1e-6)
    assert problem.micro_batch == 8
    assert problem.fitting[1:] == (WHOLE_DID_NOT_FIT,)


def test_no_gradient_was_visited_twice(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    problem, seen = make_problem(Limited(11, "backward"), classification), []
    with pytest.raises(OutOfMemory, match="computing the gradient"):
        problem.visit_gradient(lambda tensor, _: seen.append(tensor.name))
    assert problem.micro_batch is None  # the visitor has seen the last layer's already, so it is not made again
    _ = problem.base
    seen.clear()
    problem.visit_gradient(lambda tensor, _: seen.append(tensor.name))
    assert sorted(seen) == ["first.bias", "first.weight", "second.bias", "second.weight"]


@pytest.mark.parametrize("mode", ["auto", "train"])
def test_batch_normalisation_in_training_cannot_be_split(
    mode: str, make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(Limited(31, "backward", norm=True), classification, mode=mode)
    with pytest.raises(OutOfMemory, match="takes its statistics from all rows") as caught:
        _ = problem.base
    assert caught.value.exit_code == 7 and problem.micro_batch is None
    assert make_problem(Limited(31, "graph", norm=True), classification, mode="eval").base.loss > 0


def test_one_row_that_does_not_fit_is_an_error(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    problem = make_problem(Limited(0, "graph"), classification)
    with pytest.raises(OutOfMemory, match="one row alone does not fit") as caught:
        _ = problem.base
    assert caught.value.exit_code == 7
    with pytest.raises(OutOfMemory, match="one row alone does not fit"):
        resolve_loss("auto", Limited(0), as_batch(classification, "here"))


def test_chunks_of_a_loss_that_mixes_rows_are_refused(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    class Centred(Limited):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    with pytest.raises(OutOfMemory, match="chunks of 4 rather than 8 changes the loss"):
        _ = make_problem(Centred(8), classification).base
    with pytest.raises(OutOfMemory, match="into chunks of 8 changes the loss"):
        _ = make_problem(Centred(8, "graph"), classification).base


def test_single_rows_that_fit_are_taken_with_a_word(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    problem = make_problem(Limited(1), classification)
    assert problem.base.loss == pytest.approx(make_problem(Limited(32), classification).base.loss, rel=1e-6)
    assert "fits only row by row" in problem.fitting[1]


def test_every_row_is_checked_where_the_loss_is_chosen(classification: dict[str, Tensor]) -> None:
    assert resolve_loss("auto", Limited(3), as_batch(classification, "here")).name == "cross-entropy"
    wrong = classification | {"y": classification["y"].index_fill(0, torch.tensor([31]), 3)}
    with pytest.raises(FromageError, match="3"):
        resolve_loss("auto", Limited(3), as_batch(wrong, "here"))


def test_a_product_that_needs_more_than_a_gradient_sets_the_chunks(
    make_problem: Maker, classification: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem(Limited(32), classification)
    double_backward = streamed_hessian.double_backward

    def limited(model: nn.Module) -> Any:
        if problem.largest_chunk() > 11:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return double_backward(model)

    monkeypatch.setattr(streamed_hessian, "double_backward", limited)
    monkeypatch.setattr(streamed_hessian, "free_memory", lambda *_: -1)
    _ = problem.base
    fit_products(problem)
    assert problem.micro_batch == 8
    explicit = make_problem(Limited(32), classification, micro_batch=8)
    for found, expected in zip(numbers(problem), numbers(explicit), strict=True):
        assert torch.equal(found, expected)


def test_random_numbers_of_the_base_are_those_of_later_passes(
    make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    class Dropping(Limited):
        def __init__(self, rows: int) -> None:
            super().__init__(rows, "graph")
            self.norm = nn.Dropout(0.5)

    problem = make_problem(Dropping(11), classification, mode="train")
    fitted(problem, problem.require_steadiness)
    assert problem.base.loss == pytest.approx(problem.value(), rel=1e-6)
    problem.require_steadiness()
    assert problem.draws_noise
