import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.refusals import require_gradient, require_same_loss

Maker = Callable[..., Problem]


def test_splitting_under_batch_statistics_is_refused(
    make_problem: Maker, classification: dict[str, torch.Tensor]
) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(MismatchError, match="which rows are together"):
        make_problem(model, classification, micro_batch=8)
    assert make_problem(model, classification, micro_batch=8, mode="eval").base.loss > 0


def test_splitting_a_loss_that_mixes_rows_is_refused(
    make_problem: Maker, classification: dict[str, torch.Tensor]
) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x - x.mean(0))

    with pytest.raises(MismatchError, match="changes the loss from"):
        make_problem(Centred(), classification, micro_batch=8)


class Noisy(nn.Module):
    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.linear, self.mixes = nn.Linear(8, 3), mixes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.1 * torch.randn_like(x)
        return self.linear(len(x) * x if self.mixes else x)


def test_chunks_that_draw_other_noise_are_accepted_and_those_that_mix_rows_too_are_not(
    make_problem: Maker, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(Noisy(mixes=False), classification, micro_batch=8)
    assert problem.base.loss == pytest.approx(problem.value(), rel=1e-6)
    with pytest.raises(MismatchError, match="changes the loss from"):
        make_problem(Noisy(mixes=True), classification, micro_batch=8)


def test_a_loss_that_is_not_finite_is_refused(make_problem: Maker, classification: dict[str, torch.Tensor]) -> None:
    model = nn.Linear(8, 3)
    problem = make_problem(model, classification)
    with torch.no_grad():
        model.weight.fill_(1e38)
    with pytest.raises(NumericalError, match="loss at the checkpoint"):
        _ = problem.base


def test_a_gradient_that_is_not_finite_is_refused_by_name(make_problem: Maker) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 1))

        def forward(self, x: torch.Tensor) -> Any:
            return (x @ self.weight).abs().sqrt().sum()

    with pytest.raises(NumericalError, match="'weight'"):
        _ = make_problem(Root(), {"x": torch.ones(2, 1)}, "output").base


def test_a_loss_that_gives_no_tensor_a_gradient_is_refused() -> None:
    with pytest.raises(MismatchError, match="No trainable tensor receives a gradient"):
        require_gradient(1.0, {})


@pytest.mark.parametrize(
    ("first", "again", "same"),
    [
        (1.0, 1.0 + 9e-6, True),
        (1.0, 1.0 + 2e-5, False),
        (math.nan, math.nan, True),
        (1.0, math.nan, False),
        (math.inf, math.inf, True),
        (math.inf, 1.0, False),
        (0.0, 0.0, True),
        (0.0, 1e-9, False),
    ],
)
def test_a_loss_that_answers_differently_is_refused(first: float, again: float, same: bool) -> None:
    with nullcontext() if same else pytest.raises(MismatchError, match="differs between two calls"):
        require_same_loss(first, again)
