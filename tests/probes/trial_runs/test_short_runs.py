import math
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.errors import ResourceError
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.short_runs import APART, PARTS, RATES, STEPS, TAIL, make_runs
from fromage_cli.probes.trial_runs.training import training_rows
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
SGD = Optimizer(name="sgd")


class Bowl(nn.Module):
    """Weights times fixed features: with targets of zero the squared error is a quadratic of known curvature."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def bowl(
    make_problem: Maker, start: list[float], curvatures: list[float], rows: int = 80, **settings: object
) -> Problem:
    """loss = sum_i h_i w_i^2 / (2 n) for every row alike."""
    features = torch.tensor(curvatures, dtype=torch.float64).div(2.0).sqrt().expand(rows, -1)
    data = {"x": features.contiguous(), "y": torch.zeros(rows, len(start), dtype=torch.float64)}
    return make_problem(Bowl(start), data, loss="mse", **settings)


def closed_form(rate: float, step: int, start: list[float], curvatures: list[float]) -> float:
    """The loss after some steps of plain descent: every coordinate shrinks by 1 - rate h / n."""
    count = len(start)
    return sum(
        h * w**2 * (1.0 - rate * h / count) ** (2 * step) / (2.0 * count)
        for w, h in zip(start, curvatures, strict=True)
    )


def test_losses_of_plain_descent_on_a_quadratic_are_those_of_the_formula(make_problem: Maker) -> None:
    start, curvatures = [1.0, 2.0], [2.0, 0.5]
    problem = bowl(make_problem, start, curvatures)
    rows = training_rows(problem)
    runs = make_runs(MatchedState(problem, SGD), rows, guess=1.0, above=1.0)
    slope = sum((h * w / 2) ** 2 for w, h in zip(start, curvatures, strict=True))
    curvature = sum((h * w / 2) ** 2 * h / 2 for w, h in zip(start, curvatures, strict=True))
    increase = 2.0 * slope / curvature  # where the parabola along the gradient is back at its start
    assert max(runs.losses) == pytest.approx(increase, rel=0.05)
    rates = sorted(runs.losses)
    assert len(rates) == RATES
    assert rates == pytest.approx([rates[0] * APART**k for k in range(RATES)])
    for rate in rates:
        tail = sum(closed_form(rate, step, start, curvatures) for step in range(STEPS - STEPS // TAIL, STEPS))
        tail /= STEPS // TAIL
        end = closed_form(rate, STEPS, start, curvatures)
        assert runs.end_losses[rate] == pytest.approx(end, rel=1e-9)
        assert runs.losses[rate] == pytest.approx(math.sqrt(tail * end), rel=1e-9)
    assert runs.start_loss == pytest.approx(closed_form(0.0, 0, start, curvatures))
    assert runs.gain == pytest.approx(1.0 - min(runs.end_losses.values()) / runs.start_loss)
    assert runs.gradients == RATES * STEPS / PARTS


def test_the_order_of_the_rows_and_their_quarters_is_the_same_for_every_rate(make_problem: Maker) -> None:
    generator = torch.Generator().manual_seed(0)
    data = {"x": torch.randn(40, 3, generator=generator), "y": torch.zeros(40, 2)}
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    problem = make_problem(model, data, loss="mse")
    rows = training_rows(problem, 8)
    runs = make_runs(MatchedState(problem, SGD), rows, guess=1.0, above=1.0)
    rate = sorted(runs.losses)[1]
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=rate)
    losses = []
    for step in range(STEPS):
        inputs = data["x"][2 * (step % 16) : 2 * (step % 16) + 2]  # 4 chunks of 8 rows, in quarters
        optimizer.zero_grad()
        loss = twin(inputs).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    end = twin(data["x"][32:]).square().mean().item()
    assert runs.end_losses[rate] == pytest.approx(end, rel=1e-5)
    assert runs.losses[rate] == pytest.approx(
        math.sqrt(end * sum(losses[-STEPS // TAIL :]) / (STEPS // TAIL)), rel=1e-5
    )


def test_gradients_that_divergent_runs_left_are_spent_where_the_loss_is_least(make_problem: Maker) -> None:
    """The start lies along a flat direction, so that the first increase is far above what the steep one bears."""
    problem = bowl(make_problem, [1e-11, 1.0], [4e4, 1e-2])
    runs = make_runs(MatchedState(problem, SGD), training_rows(problem), guess=1.0, above=2.0)
    assert len(runs.losses) > RATES
    assert min(runs.losses) < max(runs.losses) / APART ** (RATES - 0.5)
    assert 80.0 < runs.gradients <= 100.0


def test_a_minimum_that_is_reached_exactly_is_the_best(make_problem: Maker) -> None:
    problem = bowl(make_problem, [1.0], [1.0])
    problem.model.weight.data.fill_(0.5)  # type: ignore[operator, union-attr]
    runs = make_runs(MatchedState(problem, SGD), training_rows(problem), guess=1.0, above=0.5)
    best = min(runs.losses, key=lambda rate: runs.losses[rate])
    assert best == pytest.approx(1.0, rel=0.05)
    assert runs.losses[best] < 1e-6 * runs.start_loss
    assert all(math.isfinite(loss) and loss > 0.0 for loss in runs.losses.values())


def test_a_limit_leaves_what_was_measured_and_the_weights(make_problem: Maker) -> None:
    problem = bowl(make_problem, [1.0, 2.0], [2.0, 0.5])
    finished = 0

    def advance() -> None:
        nonlocal finished
        finished += 1
        if finished == 2:
            problem.budget.seconds, problem.budget.started = 1.0, time.monotonic() - 2.0

    problem.budget = Budget()
    matched = MatchedState(problem, SGD)
    runs, error = found_of(make_runs(matched, training_rows(problem), guess=1.0, above=1.0, advance=advance))
    assert len(runs.losses) == 2
    assert isinstance(error, ResourceError)
    assert problem.model.weight.tolist() == [1.0, 2.0]  # type: ignore[operator, union-attr]


def test_a_step_that_lowers_nothing_starts_from_the_guess(make_problem: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = bowl(make_problem, [1.0], [1.0])
    monkeypatch.setattr("fromage_cli.probes.trial_runs.short_runs.critical_rate", lambda *_: None)
    runs = make_runs(MatchedState(problem, SGD), training_rows(problem), guess=0.25, above=2.0)
    assert max(runs.losses) == 0.5


@pytest.mark.parametrize(("size", "steps"), [(1, 15), (2, 30), (3, 45), (4, 60), (5, 60), (64, 60)])
def test_batches_that_cannot_be_cut_make_shorter_runs_of_the_same_cost(
    make_problem: Maker, size: int, steps: int
) -> None:
    problem = bowl(make_problem, [1.0, 2.0], [2.0, 0.5], rows=80)
    runs = make_runs(MatchedState(problem, SGD), training_rows(problem, size), guess=1.0, above=1.0)
    share = max(1, size // PARTS) / size
    assert runs.steps == steps
    assert runs.gradients == pytest.approx(RATES * steps * share)
    assert 60.0 < runs.gradients <= 90.0
