from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fromage_cli.probes.curvature import iteration_cost as iteration_cost_module
from fromage_cli.probes.curvature.iteration_cost import ITERATIONS, IterationCost, iteration_cost
from fromage_cli.problem.evaluation.problem import Problem


def test_iterations_are_timed_after_the_first(
    make_problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem(nn.Linear(30, 1), {"x": torch.randn(40, 30), "y": torch.randn(40, 1)})
    ticks = iter([0.0, 5.0, 7.0, 9.0, 11.0])
    monkeypatch.setattr(iteration_cost_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    cost = iteration_cost(problem, problem.receiving)
    assert cost == IterationCost(seconds=2.0, beginning=3.0)
    assert (cost.time(0), cost.time(10)) == (0.0, 23.0)
    assert problem.evaluations.hessian_vector_products == ITERATIONS == 4


def test_no_iterations_without_a_second_derivative(make_problem: Callable[..., Problem], tanh_once: nn.Module) -> None:
    problem = make_problem(nn.Sequential(nn.Linear(3, 1), tanh_once), {"x": torch.ones(4, 3), "y": torch.ones(4, 1)})
    assert iteration_cost(problem, problem.receiving) == IterationCost()
