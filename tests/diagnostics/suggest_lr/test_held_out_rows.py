from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.suggest_lr.held_out_rows import critical_on_others
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_update import next_update
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]


def regression(rows: int) -> Data:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 5, generator=generator).double()
    return {"x": x, "y": x.sum(1, keepdim=True) + torch.randn(rows, 1, generator=generator).double()}


def found(problem: Problem, start: float = 0.1) -> tuple[float | None, str]:
    update = next_update(MatchedState(problem, Optimizer("sgd", 0.1)), problem.receiving)
    return critical_on_others(update, problem.receiving, start)


def linear() -> nn.Module:
    model = nn.Linear(5, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.2)
    return model


def test_on_a_quadratic_it_is_where_a_parabola_is_back_at_its_start(make_problem: Maker) -> None:
    """Along w - r g_A the loss of B changes by -r <g_B, g_A> + r^2 ||x_B g_A||^2 / n for a mean of squares."""
    problem = make_problem(linear(), regression(41))
    before = problem.base.loss, problem.evaluations.gradients
    a, b = (problem.on(problem.batch.rows(start, start + 20)) for start in (0, 20))
    own, other = (part.base.gradients["weight"] for part in (a, b))
    bend = float((b.batch.data["x"] @ own.T).square().mean())
    rate, words = found(problem)
    assert rate == pytest.approx(float((own * other).sum()) / bend, rel=0.05)
    assert words == "by trying steps; on 20 rows, the step from 20 others"
    assert problem.value() == before[0]
    assert problem.evaluations.gradients - before[1] == pytest.approx(2 * 40 / 41)  # the noise, both halves


def test_a_step_that_raises_it_from_the_start_and_rows_that_are_missing_are_told(make_problem: Maker) -> None:
    data = regression(40)
    data["x"][20:], data["y"][20:] = data["x"][:20], -9.0 * data["y"][:20]
    words = "it never falls; on 20 rows, the step from 20 others"
    assert found(make_problem(linear(), data)) == (Missing(Why.UPHILL, words), words)
    update = next_update(
        MatchedState(make_problem(linear(), data), Optimizer("sgd")), make_problem(linear(), data).receiving
    )
    alone = make_problem(linear(), {name: rows[:1] for name, rows in data.items()})
    update = replace(update, matched=update.matched.on(alone))
    assert critical_on_others(update, alone.receiving, 0.1) == (
        Missing(Why.TOO_FEW_ROWS, "it takes two rows"),
        "it takes two rows",
    )
