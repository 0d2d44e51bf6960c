"""What is told beforehand against what is computed then."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.suggest_lr.cost import estimate, training_cost
from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import PRODUCT, Request, gradients
from fromage_cli.errors import UsageError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import Cost
from fromage_cli.probes.lines.crossing import BELOW, POINTS
from fromage_cli.probes.lines.draws import measure_draw_spread
from fromage_cli.problem.evaluation.problem import Problem

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
        (MOMENTUM, {"probe": "auto"}),
        (Optimizer("adamw"), {"probe": "init", "batch_size": 8}),
        (MOMENTUM, {"verify": 9}),
    ],
)
def test_no_run_takes_more_than_was_told_nor_much_less(
    make_problem: Maker, optimizer: Optimizer, asked: dict[str, Any]
) -> None:
    problem = made(make_problem)
    if asked.get("probe") == "init":
        again = made(make_problem, seed=2)
        again.evaluations = problem.evaluations
        asked = {**asked, "fresh": lambda: again}
    told = estimate(made(make_problem), optimizer, Request(**asked)).gradients
    took = spent(problem, optimizer, Request(**asked))
    unused = 20.0 * PRODUCT if asked.get("sharpness") else 0.0
    below = float(len(BELOW) + POINTS)  # points that only a curve bent by kinks takes
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
        told.append(estimate(problem, optimizer, Request()).gradients)
        before = gradients(problem.evaluations)
        spent(problem, optimizer, Request())
        if problem.draws_noise:
            measure_draw_spread(problem)
        took.append(gradients(problem.evaluations) - before)
    assert told[0] - told[1] == pytest.approx(took[0] - took[1], rel=0.3)


@pytest.mark.parametrize("size", [None, 5])
def test_real_steps_are_told_exactly(make_problem: Maker, size: int | None) -> None:
    """19 of 96 rows are kept apart; 77 make four chunks of 19, or fifteen of 5."""
    request = Request(verify=7, batch_size=size)
    steps, losses = 3 * 7 * (size or 19), 4 * 19 / 3
    assert training_cost(made(make_problem), request) == pytest.approx((steps + losses) / 96)
    without, with_them = (
        spent(made(make_problem), MOMENTUM, Request(verify=verify, batch_size=size)) for verify in (0, 7)
    )
    assert with_them - without == pytest.approx((steps + losses) / 96)


def test_nothing_is_told_for_runs_that_are_not_made(make_problem: Maker) -> None:
    alone = made(make_problem, rows=1)
    assert training_cost(alone, Request(probe="none")) == training_cost(alone, Request(probe="auto")) == 0.0
    told = estimate(alone, MOMENTUM, Request(probe="auto")).gradients
    assert spent(made(make_problem, rows=1), MOMENTUM, Request(probe="auto")) <= told
    for request in (Request(probe="checkpoint"), Request(probe="auto", verify=1)):
        with pytest.raises(UsageError, match="two rows; the batch has one"):
            training_cost(alone, request)
