"""What is told beforehand against what is computed then."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.suggest_lr import cost as suggest_lr_cost
from fromage_cli.diagnostics.suggest_lr.cost import advise_on_cost, estimate, expected_work, training_cost
from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.errors import UsageError
from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import PRODUCT, Cost, gradients
from fromage_cli.probes.lines.crossing import BELOW, POINTS
from fromage_cli.probes.lines.draws import measure_draw_spread
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.terminal.answer import Estimate
from fromage_cli.theory.schedules import Schedule

Maker = Callable[..., Problem]
MOMENTUM = Optimizer("sgd", momentum=0.9)


@pytest.fixture(autouse=True)
def products_of_nominal_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine they take as long as they are counted for."""
    monkeypatch.setattr(Cost, "equivalent", lambda self, products: PRODUCT * products)


def made(maker: Maker, rows: int = 96, seed: int = 1) -> Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(7))
    return maker(model, {"x": x, "y": x[:, :3].argmax(1)})


def told_of(problem: Problem, optimizer: Optimizer, request: Request) -> float:
    return estimate(problem, problem.receiving, optimizer, request).gradients


def trained(problem: Problem, request: Request) -> float:
    return training_cost(problem, MOMENTUM, request).gradients


def new_weights(maker: Maker, problem: Problem) -> Callable[[int], Problem]:
    """The same problem with weights of a seed, whose evaluations are counted together with its own."""

    def again(seed: int) -> Problem:
        other = made(maker, seed=seed + 2)
        other.evaluations = problem.evaluations
        return other

    return again


def spent(problem: Problem, optimizer: Optimizer, request: Request) -> float:
    measure(problem, problem.receiving, optimizer, None, request=request)
    return gradients(problem.evaluations)


@pytest.mark.parametrize(
    ("optimizer", "asked"),
    [
        (MOMENTUM, {}),
        (Optimizer("adamw"), {}),
        (Optimizer("fromage"), {"sharpness": True}),
        (Optimizer(), {}),
        (MOMENTUM, {"probe": "auto", "budget": 180}),
        (Optimizer("adamw"), {"probe": "init", "batch_size": 8, "budget": 180}),
        (MOMENTUM, {"verify": 9}),
    ],
)
def test_no_run_takes_more_than_was_told_nor_much_less(
    make_problem: Maker, optimizer: Optimizer, asked: dict[str, Any]
) -> None:
    problem = made(make_problem)
    if asked.get("probe") == "init":
        asked = {**asked, "fresh": new_weights(make_problem, problem)}
    told = told_of(made(make_problem), optimizer, Request(**asked))
    took = spent(problem, optimizer, Request(**asked))
    unused = 20.0 * PRODUCT if asked.get("sharpness") else 0.0
    searches = 1 if optimizer.name is not None else 1 + len(RULES)
    below = float(len(BELOW) + POINTS) * searches  # points that only a curve bent by kinks takes
    assert took <= told <= 2.0 * took + unused + below, (took, told)


class Jittered(nn.Linear):
    scale = 0.3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + self.scale * torch.randn_like(x))


@pytest.mark.parametrize("optimizer", [MOMENTUM, Optimizer("adamw"), Optimizer()])
def test_other_draws_are_told_where_the_network_draws_noise(make_problem: Maker, optimizer: Optimizer) -> None:
    def drawing(scale: float) -> Problem:
        torch.manual_seed(1)
        first = Jittered(6, 12)
        first.scale = scale
        return make_problem(nn.Sequential(first, nn.Tanh(), nn.Linear(12, 3)), made(make_problem).batch.data)

    told, took = [], []
    for problem in (drawing(0.3), drawing(0.0)):
        told.append(told_of(problem, optimizer, Request()))
        before = gradients(problem.evaluations)
        spent(problem, optimizer, Request())
        if problem.draws_noise:
            measure_draw_spread(problem)
        took.append(gradients(problem.evaluations) - before)
    assert told[0] - told[1] == pytest.approx(took[0] - took[1], rel=0.3)


@pytest.mark.parametrize("probe", ["checkpoint", "init"])
@pytest.mark.parametrize(("budget", "steps", "runs"), [(84, 84, 7), (180, 180, 11), (360, 360, 22), (83, 0, 0)])
def test_short_runs_are_told_within_thirty_percent(
    make_problem: Maker, probe: str, budget: int, steps: int, runs: int
) -> None:
    """Of 96 rows four batches of 19, and 19 others; a seed has a first gradient, and a loss before its runs."""
    problem = made(make_problem)
    request = Request(probe=probe, budget=budget, fresh=new_weights(make_problem, problem))
    told = trained(problem, request)
    judged = 19 / 96 / 3
    assert told == pytest.approx(2 * (1 + judged) + steps * 19 / 96 + runs * judged)
    without = spent(made(make_problem), MOMENTUM, Request())
    took = spent(problem, MOMENTUM, request) - without
    assert took <= told + 1e-9
    assert steps == 0 or told <= 1.3 * took


def test_no_runs_are_told_of_a_schedule_that_has_ended_and_fewer_steps_of_a_short_one(make_problem: Maker) -> None:
    problem = made(make_problem)
    ended = Request(probe="checkpoint", budget=360, schedule=Schedule("cosine", total=100), made=99)
    assert trained(problem, ended) == 0.0
    short = replace(ended, schedule=Schedule("cosine", total=115))
    assert spent(problem, MOMENTUM, short) - spent(made(make_problem), MOMENTUM, Request()) == pytest.approx(
        trained(problem, short), rel=0.3
    )


@pytest.mark.parametrize(("seconds", "budget"), [(1e-3, 400), (2.0, 300), (6.0, 100)])
def test_without_a_budget_what_fits_into_ten_minutes_is_told(
    make_problem: Maker, monkeypatch: pytest.MonkeyPatch, seconds: float, budget: int
) -> None:
    """Three steps of 19 of 96 rows are timed first, here as slow as a gradient of all rows."""
    monkeypatch.setattr(suggest_lr_cost, "step_seconds", lambda start, rows: seconds)
    monkeypatch.setattr(suggest_lr_cost, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    default, given = (
        training_cost(made(make_problem), MOMENTUM, Request(probe="auto", budget=n), seconds) for n in (None, budget)
    )
    assert default.gradients == pytest.approx(given.gradients + 3 * 19 / 96)
    assert default.seconds - given.seconds == pytest.approx(3 * seconds * (1 - 19 / 96))  # beside what is counted


def test_getting_ready_counts(make_problem: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights take 2 s, for either of two orders; the first of three steps of 3 s takes 7 s longer."""
    clock = iter([0.0, 2.0, 10.0, 10.0 + 3 * 3.0 + 7.0])
    monkeypatch.setattr(suggest_lr_cost, "step_seconds", lambda start, rows: 3.0)
    monkeypatch.setattr(suggest_lr_cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = training_cost(made(make_problem), MOMENTUM, Request(probe="auto", budget=84), 0.0)
    assert found.seconds == pytest.approx(84 * 3.0 + 2 * 2.0 + 7.0)


@pytest.mark.parametrize(("size", "step", "judged"), [(None, 19, 19), (5, 5, 15)])
def test_real_steps_are_told_exactly(make_problem: Maker, size: int | None, step: int, judged: int) -> None:
    """Two orders of the batches at three rates; of 96 rows a fifth of the batches is kept apart."""
    request = Request(verify=7, batch_size=size)
    rows = 6 * 7 * step + 7 * judged / 3
    assert trained(made(make_problem), request) == pytest.approx(rows / 96)
    without, with_them = (
        spent(made(make_problem), MOMENTUM, Request(verify=verify, batch_size=size)) for verify in (0, 7)
    )
    assert with_them - without == pytest.approx(rows / 96)


def test_nothing_is_told_for_runs_that_are_not_made(make_problem: Maker) -> None:
    alone = made(make_problem, rows=1)
    for probe in ("none", "auto"):
        assert trained(alone, Request(probe=probe)) == 0.0
    told = told_of(alone, MOMENTUM, Request(probe="auto"))
    assert spent(made(make_problem, rows=1), MOMENTUM, Request(probe="auto")) <= told
    for request in (Request(probe="checkpoint"), Request(probe="auto", verify=1)):
        with pytest.raises(UsageError, match="two rows; the batch has one"):
            trained(alone, request)


@pytest.mark.parametrize(
    ("optimizer", "request_"),
    [(MOMENTUM, Request(probe="auto", budget=180)), (MOMENTUM, Request(sharpness=True)), (Optimizer(), Request())],
)
def test_the_bar_counts_what_is_computed(make_problem: Maker, optimizer: Optimizer, request_: Request) -> None:
    told = expected_work(made(make_problem), optimizer, request_)
    problem = made(make_problem)
    took = spent(problem, optimizer, request_)
    assert 0.4 * told <= took <= told
    assert problem.evaluations.doing


def test_the_flag_that_spares_the_short_runs_is_named_where_they_take_most(make_problem: Maker) -> None:
    problem, request = made(make_problem), Request(probe="checkpoint", budget=84)
    assert "--probe none" in advise_on_cost(problem, MOMENTUM, request, Estimate(20.0, None, 1e-4))
    assert advise_on_cost(problem, MOMENTUM, request, Estimate(1e6, None, 100.0)) == ""
    assert advise_on_cost(problem, MOMENTUM, Request(), Estimate(20.0, None, 1e-4)) == ""
