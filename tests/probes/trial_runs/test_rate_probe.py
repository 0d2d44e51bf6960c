import math
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.errors import ResourceError, UsageError
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.optimizers.typical_rates import calibration
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs import rate_probe
from fromage_cli.probes.trial_runs.rate_probe import (
    GUESS,
    MOST_GRADIENTS,
    SECONDS,
    TOO_FEW,
    RateProbe,
    affordable,
    measure_rate,
    step_seconds,
)
from fromage_cli.probes.trial_runs.short_runs import FIRST_APART, FIRST_RATES, LEAST_BUDGET, Course
from fromage_cli.probes.trial_runs.training import training, training_rows
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.rate_calibration import SGD, WholeRun, conclude
from fromage_cli.theory.schedules import Schedule
from tests.probes.trial_runs.bowls import bowl, descended

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
COURSE = Course(Schedule("cosine", 10, 100))


def learnable(rows: int = 320) -> Data:
    """Rows whose class is their largest of three features."""
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(3))
    return {"x": x, "y": x[:, :3].argmax(1)}


def probed(problem: Problem, optimizer: Optimizer = Optimizer("sgd"), **settings: Any) -> RateProbe:  # noqa: B008
    asked: dict[str, Any] = {"estimator": "probe", "calibration": None, "budget": 360, **settings}
    matched = MatchedState(problem, optimizer)
    return found_of(measure_rate(lambda _: matched, training_rows(problem), COURSE, **asked))[0]


def test_what_runs_showed_is_given_with_the_conclusion_from_them(make_problem: Maker) -> None:
    start, curvatures = [1.0, 2.0], [2.0, 0.5]
    found = probed(bowl(make_problem, start, curvatures), guess=1.0)
    assert (found.gradients, found.budget, found.estimator) == (360, 360, "probe")
    assert found.conclusion == conclude(found.runs, found.start_losses, None, WholeRun(100.0, new=False, parts=True))
    ends = [
        descended([run.learning_rate * factor for factor in COURSE.factors(run.steps)], start, curvatures)
        for run in found.runs
    ]
    assert found.gain == pytest.approx(1.0 - min(ends) / descended([], start, curvatures))


@pytest.mark.parametrize("budget", [1, LEAST_BUDGET - 1])
def test_below_the_first_runs_of_one_seed_nothing_is_trained(make_problem: Maker, budget: int) -> None:
    problem = bowl(make_problem, [1.0], [1.0])
    found = probed(problem, budget=budget, calibration=SGD)
    assert (found.runs, found.start_losses, found.gradients, found.budget) == ((), (), 0, budget)
    assert found.gain is found.conclusion.learning_rate is None
    assert problem.evaluations.gradients == 0.0
    without = conclude([], [], SGD, WholeRun(100.0, new=False, parts=True))
    assert found.conclusion == replace(without, reason=TOO_FEW)


@pytest.mark.parametrize(
    ("settings", "centre"),
    [
        ({"guess": 0.3}, 0.3),
        ({"guess": 0.3, "peak": 0.6}, 0.6),
        ({}, GUESS),
        ({"calibration": SGD}, SGD.typical),
        ({"guess": 0.3, "calibration": SGD}, 0.3),
        ({"guess": 0.3, "peak": 0.6, "calibration": SGD}, 0.6),
        ({"guess": 0.3, "peak": 0.6, "calibration": SGD, "estimator": "probe-init"}, SGD.typical),
    ],
)
def test_the_first_runs_lie_around_the_typical_rate_of_new_weights_else_the_peak_or_the_rate_in_use(
    make_problem: Maker, settings: dict[str, Any], centre: float
) -> None:
    found = probed(bowl(make_problem, [1.0], [1.0 / centre]), budget=84, **settings)
    rates = [run.learning_rate for run in found.runs]
    assert rates == pytest.approx([centre * FIRST_APART**k for k in range(-3, 4)]) and len(rates) == FIRST_RATES


def test_a_network_that_learns_gets_a_rate_that_trains_better_than_ones_far_from_it(
    make_problem: Maker, perceptron: nn.Module
) -> None:
    problem = make_problem(perceptron, learnable())
    before = [parameter.detach().clone() for parameter in perceptron.parameters()]
    optimizer, counted = Optimizer(name="adamw"), [0]

    def advance() -> None:
        counted[0] += 1

    found = probed(problem, optimizer, calibration=calibration(optimizer), advance=advance)
    rate, low, high = found.conclusion.learning_rate, found.conclusion.low, found.conclusion.high
    assert rate is not None and low is not None and high is not None and low < rate < high
    assert min(run.learning_rate for run in found.runs) < rate < max(run.learning_rate for run in found.runs)
    assert counted[0] == len(found.runs) == 22
    assert all(torch.equal(a, b) for a, b in zip(before, perceptron.parameters(), strict=True))
    rows, ends = training_rows(problem), []
    with training(MatchedState(problem, optimizer)) as run:
        for factor in (1 / 32, 1.0, 32.0):
            run.start(rate * factor)
            for step in range(100):
                run.step(rows.batches[step % 4], COURSE.schedule.rate_factor(step))
            ends.append(run.loss(rows.independent))
    assert ends[1] < min(ends[0], ends[2])


def test_the_rate_follows_the_unit_of_the_loss_under_plain_descent(make_problem: Maker) -> None:
    found = []
    for scale in (1.0, 8.0):
        torch.manual_seed(0)
        problem = make_problem(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), learnable())
        plain = problem.loss

        def scaled(model: nn.Module, batch: object, plain: Any = plain, scale: float = scale) -> object:
            terms = plain(model, batch)
            return replace(terms, total=terms.total * scale)

        problem.loss = scaled  # type: ignore[assignment]
        found.append(probed(problem, guess=0.5 / scale, budget=180).conclusion)
    assert found[0].learning_rate is not None
    assert found[1].learning_rate == pytest.approx(found[0].learning_rate / 8.0, rel=1e-3)
    assert found[1].regret == pytest.approx(found[0].regret, rel=1e-3)


class Normalised(nn.Module):
    """Batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm, self.dropout = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.second = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.relu(self.norm(self.first(x)))))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_weights_running_statistics_gradients_and_modes_stay_as_they_were(make_problem: Maker, mode: str) -> None:
    model = Normalised()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, training_was = torch.get_rng_state(), model.training
    found = probed(make_problem(model, learnable(80), mode=mode), Optimizer("sgd", momentum=0.9), budget=180)
    assert len(found.runs) >= FIRST_RATES
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state) and model.training == training_was


@pytest.mark.parametrize(("seconds", "budget"), [(1e-4, MOST_GRADIENTS), (1.5, 400), (5.0, 120), (1000.0, 0)])
def test_without_a_budget_as_many_steps_are_taken_as_fit_into_the_time(
    make_problem: Maker, monkeypatch: pytest.MonkeyPatch, seconds: float, budget: int
) -> None:
    problem = bowl(make_problem, [1.0], [1.0])
    clock = iter(seconds * tick for tick in range(100))
    monkeypatch.setattr(rate_probe, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert affordable(step_seconds(MatchedState(problem, Optimizer("sgd")), training_rows(problem))) == budget
    assert budget * seconds <= SECONDS
    assert problem.model.weight.item() == 1.0  # type: ignore[operator, union-attr]


def test_the_budget_that_was_found_is_told(make_problem: Maker) -> None:
    found = probed(bowl(make_problem, [1.0], [1.0]), budget=None, guess=1.0)
    assert found.budget == MOST_GRADIENTS and found.gradients == 360


def test_a_loss_that_is_not_above_zero_has_no_share(make_problem: Maker) -> None:
    problem = bowl(make_problem, [1.0], [1.0])
    plain = problem.loss

    def lowered(model: nn.Module, batch: Any) -> object:
        terms = plain(model, batch)
        return replace(terms, total=terms.total - 10.0 * terms.count)

    problem.loss = lowered  # type: ignore[assignment]
    found = probed(problem, guess=1.0, budget=84)
    assert found.gain is None and found.conclusion.learning_rate is not None


def test_a_time_limit_leaves_a_partial_answer(make_problem: Maker) -> None:
    problem = bowl(make_problem, [1.0, 2.0], [2.0, 0.5], budget=Budget())
    finished = 0

    def advance() -> None:
        nonlocal finished
        finished += 1
        if finished == 3:
            problem.budget.seconds, problem.budget.started = 1.0, time.monotonic() - 2.0

    matched = MatchedState(problem, Optimizer("sgd"))
    made = measure_rate(
        lambda _: matched, training_rows(problem), COURSE, estimator="probe-init", calibration=SGD, budget=360,
        advance=advance,
    )  # fmt: skip
    found, error = found_of(made)
    assert len(found.runs) == 3 and isinstance(error, ResourceError)
    assert found.gradients == sum(run.steps for run in found.runs) < found.budget
    assert found.estimator == "probe-init" and math.isfinite(found.start_losses[0])


def test_an_optimizer_without_steps_is_refused(make_problem: Maker, perceptron: nn.Module) -> None:
    with pytest.raises(UsageError, match="No steps can be taken"):
        probed(make_problem(perceptron, learnable()), Optimizer())


def test_where_most_runs_overflow_that_is_the_reason_and_no_rate_lies_above_the_first_that_did(
    make_problem: Maker,
) -> None:
    """Twelve layers on inputs and targets of unusual scale: training overflows from a rate of about 1e-4 on."""
    generator = torch.Generator().manual_seed(1)
    x = 3.0 * torch.randn(160, 16, generator=generator)
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(16, 1))
    problem = make_problem(model, {"x": x, "y": 50.0 * x.sum(1, keepdim=True)}, loss="mse")
    optimizer = Optimizer("sgd", momentum=0.9)
    found = probed(problem, optimizer, estimator="probe-init", calibration=calibration(optimizer))
    lost = [run.learning_rate for run in found.runs if math.isinf(run.loss)]
    assert 2 * len(lost) > len(found.runs) and not found.conclusion.reliable
    assert found.conclusion.learning_rate is not None and found.conclusion.high is not None
    assert found.conclusion.learning_rate <= found.conclusion.high < min(lost)
    assert found.conclusion.reason.startswith("most short runs overflowed, from ")
