import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.errors import ResourceError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.training import training_rows
from fromage_cli.probes.trial_runs.verification import FACTORS, verify
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


class Bowl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@pytest.fixture
def bowl(make_problem: Maker) -> Problem:
    """loss = w^2, so that a step at rate r multiplies it by (1 - 2 r)^2."""
    ones = torch.ones(40, 1, dtype=torch.float64)
    return make_problem(Bowl(), {"x": ones, "y": torch.zeros_like(ones)}, loss="mse")


def test_losses_are_those_of_the_formula_at_each_factor(bowl: Problem) -> None:
    rate = 0.5
    found = verify(MatchedState(bowl, Optimizer(name="sgd")), rate, 5)
    assert [run.factor for run in found] == list(FACTORS) == [0.3, 1.0, 3.0]
    for run in found:
        shrink = (1.0 - 2.0 * run.factor * rate) ** 2
        assert run.learning_rate == pytest.approx(run.factor * rate)
        assert run.losses == pytest.approx([shrink**k for k in range(5)])
        assert run.start_loss == 1.0
        assert run.end_loss == pytest.approx(shrink**5)
    assert bowl.model.weight.item() == 1.0  # type: ignore[operator, union-attr]


def test_a_run_that_leaves_the_numbers_ends_there(bowl: Problem) -> None:
    found = verify(MatchedState(bowl, Optimizer(name="sgd")), 1e30, 20)
    assert all(run.end_loss is None for run in found)
    assert all(0 < len(run.losses) < 20 for run in found)
    assert all(math.isfinite(loss) for run in found for loss in run.losses)


def test_minibatches_are_those_of_the_rows_in_order(make_problem: Maker) -> None:
    data = {"x": torch.arange(1.0, 21.0).view(-1, 1), "y": torch.zeros(20, 1)}
    torch.manual_seed(0)
    problem = make_problem(nn.Linear(1, 1), data, loss="mse")
    batches = training_rows(problem, 4).batches
    expected = [problem.on(batch).value() for batch in batches]
    (run, *_) = verify(MatchedState(problem, Optimizer(name="sgd")), 0.0, len(batches) + 1, batch_size=4)
    assert run.losses == pytest.approx([*expected, expected[0]])


def test_a_limit_is_raised_and_the_weights_are_put_back(bowl: Problem) -> None:
    def advance() -> None:
        bowl.budget.seconds = 0.0

    bowl.budget = Budget()
    with pytest.raises(ResourceError):
        verify(MatchedState(bowl, Optimizer(name="sgd")), 0.1, 3, advance=advance)
    assert bowl.model.weight.item() == 1.0  # type: ignore[operator, union-attr]
