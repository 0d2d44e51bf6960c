import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.errors import ResourceError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.short_runs import SEEDS, Course
from fromage_cli.probes.trial_runs.training import training_rows
from fromage_cli.probes.trial_runs.verification import FACTORS, Verification, best_of, verify
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.schedules import Schedule
from tests.probes.trial_runs.bowls import bowl, descended

Maker = Callable[..., Problem]
SGD = Optimizer(name="sgd")
START, CURVATURES = [1.0], [2.0]


@pytest.fixture
def steep(make_problem: Maker) -> Problem:
    """loss = w^2, so that a step at rate r multiplies it by (1 - 2 r)^2."""
    return bowl(make_problem, START, CURVATURES, rows=40)


def verified(problem: Problem, rate: float, steps: int, course: Course | None = None) -> list[Verification]:
    return verify(MatchedState(problem, SGD), rate, training_rows(problem), course or Course(), steps)


@pytest.mark.parametrize(
    "course", [Course(), Course(Schedule("cosine", 4, 20)), Course(Schedule("linear", 0, 90), 30.0)]
)
def test_losses_are_those_of_the_formula_at_each_factor_along_the_schedule(steep: Problem, course: Course) -> None:
    found = verified(steep, 0.4, 5, course)
    assert [run.factor for run in found] == list(FACTORS) == pytest.approx([1 / 3, 1.0, 3.0])
    for run in found:
        rates = [run.learning_rate * factor for factor in course.factors(5)]
        assert run.learning_rate == pytest.approx(run.factor * 0.4)
        assert run.losses == pytest.approx([descended(rates[:step], START, CURVATURES) for step in range(5)])
        assert run.start_loss == 1.0
        assert run.end_loss == pytest.approx(descended(rates, START, CURVATURES))
        assert run.ends == pytest.approx([run.end_loss] * SEEDS), "all rows are alike, in any order"
    assert steep.model.weight.item() == 1.0  # type: ignore[operator, union-attr]


def test_a_run_that_leaves_the_numbers_ends_there(steep: Problem) -> None:
    found = verified(steep, 1e30, 20)
    assert all(run.end_loss == math.inf for run in found)
    assert all(0 < len(run.losses) < 20 for run in found)
    assert all(math.isfinite(loss) for run in found for loss in run.losses)
    assert best_of(found) is None


def test_minibatches_are_those_of_the_rows_and_then_the_same_turned_round(make_problem: Maker) -> None:
    data = {"x": torch.arange(1.0, 21.0).view(-1, 1), "y": torch.zeros(20, 1)}
    problem = make_problem(nn.Linear(1, 1), data, loss="mse")
    before = problem.model.state_dict()
    rows = training_rows(problem, 4)
    run = verify(MatchedState(problem, SGD), 1e-3, rows, Course(), 6)[1]
    ends = []
    for order in (rows.batches, rows.batches[::-1]):
        twin = nn.Linear(1, 1)
        twin.load_state_dict(before)
        optimizer, losses = torch.optim.SGD(twin.parameters(), lr=1e-3), []
        for step in range(6):
            optimizer.zero_grad()
            loss = twin(order[step % 4].data["x"]).square().mean()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
        ends.append(twin(data["x"][16:]).square().mean().item())
        assert order is not rows.batches or run.losses == pytest.approx(losses, rel=1e-5)
    assert run.ends == pytest.approx(ends, rel=1e-4) and ends[0] != pytest.approx(ends[1], rel=1e-2)


def test_a_limit_is_raised_and_the_weights_are_put_back(steep: Problem) -> None:
    def advance() -> None:
        steep.budget.seconds = 0.0

    steep.budget = Budget()
    with pytest.raises(ResourceError):
        verify(MatchedState(steep, SGD), 0.1, training_rows(steep), Course(), 3, advance=advance)
    assert steep.model.weight.item() == 1.0  # type: ignore[operator, union-attr]


def ended(*ends: tuple[float, float]) -> list[Verification]:
    return [Verification(factor, factor, (1.0,), 1.0, each) for factor, each in zip(FACTORS, ends, strict=True)]


@pytest.mark.parametrize(
    ("ends", "best"),
    [
        (((0.9, 0.91), (0.5, 0.51), (0.7, 0.71)), 1),
        (((0.9, 0.9), (0.5, 0.5), (0.7, 0.7)), None),  # every order gives the same: nothing tells the spread
        (((0.9, 0.7), (0.5, 0.3), (0.8, 0.6)), 1),  # the orders differ alike at every rate
        (((0.9, 0.9), (0.5, 0.5), (0.45, 0.65)), None),  # the third is better in one order, worse in the other
        (((0.9, 0.9), (0.5, 0.5), (0.51, 0.6)), None),  # by .055, where the orders differ by .09
        (((0.9, 0.9), (0.5, 0.5), (0.7, 0.73)), 1),
        (((0.9, 0.9), (0.5, 0.5), (0.6, 0.7)), None),  # by .15 for a deviation of .041
        (((0.5, 0.5), (0.5, 0.5), (0.9, 0.9)), None),
        (((0.9, 0.92), (0.5, 0.51), (math.inf, math.inf)), 1),
        (((0.9, 0.92), (0.7, 0.65), (math.inf, math.inf)), None),  # of two rates more is asked
        (((math.inf, math.inf), (0.5, 0.5), (math.inf, math.inf)), 1),
        (((math.inf, math.inf),) * 3, None),
    ],
)
def test_a_rate_is_best_where_others_are_far_above_it_for_how_the_orders_of_batches_differ(
    ends: tuple[tuple[float, float], ...], best: int | None
) -> None:
    runs = ended(*ends)
    assert best_of(runs) is (None if best is None else runs[best])


def test_of_no_runs_none_is_best() -> None:
    assert best_of([]) is None


def test_one_order_that_leaves_the_numbers_is_no_tie() -> None:
    """A rate at which a run diverges in one order of the batches is worse than one at which none does."""
    runs = ended((0.9, 0.91), (0.5, 0.51), (0.6, math.inf))
    assert best_of(runs) is runs[1]
