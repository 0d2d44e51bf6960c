from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fromage_cli.probes import cost as cost_module
from fromage_cli.probes.cost import Cost, measure_cost, point_seconds
from fromage_cli.problem.evaluation.problem import Problem


def test_what_a_pass_keeps_is_counted_once(make_problem: Callable[..., Problem]) -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 100, bias=False), nn.Linear(100, 100, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x))).square().mean()

    problem = make_problem(Squares(), {"x": torch.randn(1000, 8)}, "output")
    cost = measure_cost(problem, products=True)
    assert cost.weights == 4 * (8 * 100 + 100 * 100)
    assert cost.activations == 4 * 1000 * (8 + 100 + 100)  # the input, tanh's output, the square's input
    gradients = 4 * 100  # by the output, as a factor of it, by tanh's output and by its input
    assert 0 <= cost.product_activations - 4 * 1000 * (8 + 100 + 100 + gradients) < 100  # single numbers
    assert cost.seconds > 0
    assert cost.product_seconds > 0
    assert cost.resident > cost.weights
    assert problem.evaluations.gradients == 3  # the base, and two that are timed


def test_of_several_chunks_one_is_kept_at_a_time(make_problem: Callable[..., Problem]) -> None:
    model = nn.Sequential(nn.Linear(8, 100), nn.Tanh(), nn.Linear(100, 1))
    data = {"x": torch.randn(1000, 8), "y": torch.randn(1000, 1)}
    whole, part = (measure_cost(make_problem(model, data, micro_batch=rows), products=True) for rows in (None, 250))
    targets = 4 * 1000  # all of them are there, of whichever rows the loss is taken
    assert part.activations - targets == (whole.activations - targets) / 4
    assert part.product_activations - targets == pytest.approx((whole.product_activations - targets) / 4, rel=1e-3)


@pytest.mark.parametrize(("waited", "worked", "least"), [(5.0, 2.0, 5.0), (1.0, 3.0, 3.0)])
def test_loading_counts_from_the_start_of_the_process(
    make_problem: Callable[..., Problem],
    monkeypatch: pytest.MonkeyPatch,
    waited: float,
    worked: float,
    least: float,
) -> None:
    problem = make_problem(nn.Linear(3, 1), {"x": torch.ones(4, 3), "y": torch.ones(4, 1)})
    monkeypatch.setattr(problem.budget, "started", 0.0)
    clock = iter([10.0, 14.0, 20.0, 23.0])  # the first gradient takes four seconds, the second three
    monkeypatch.setattr(
        cost_module,
        "time",
        SimpleNamespace(monotonic=lambda: waited, process_time=lambda: worked, perf_counter=lambda: next(clock)),
    )
    cost = measure_cost(problem)
    assert (cost.loading, cost.seconds) == (least + 1.0, 3.0)


def test_products_cost_nothing_where_there_are_none(make_problem: Callable[..., Problem], tanh_once: nn.Module) -> None:
    data = {"x": torch.ones(4, 3), "y": torch.ones(4, 1)}
    assert (
        measure_cost(make_problem(nn.Sequential(nn.Linear(3, 1), tanh_once), data), products=True).product_seconds
        == 0.0
    )
    assert measure_cost(make_problem(nn.Linear(3, 1), data), products=True).product_seconds > 0.0


def test_time_and_memory_are_linear_in_what_is_asked() -> None:
    cost = Cost(2.0, 1.0, 5.0, resident=1000, weights=100, activations=10, product_activations=30, gathered=7)
    assert cost.time(3) == 7.0
    assert cost.time(3, products=1) == pytest.approx(12.0)
    assert cost.equivalent(products=2) == 5.0
    assert cost.memory(2.1) == 1000 + 210 + 10 + 7
    assert cost.memory(2.1, products=True) == 1000 + 210 + 30 + 7


def test_a_point_leaves_the_weights(make_problem: Callable[..., Problem]) -> None:
    problem = make_problem(nn.Linear(3, 1), {"x": torch.randn(4, 3), "y": torch.randn(4, 1)})
    before = [tensor.parameter.detach().clone() for tensor in problem.trainable]
    assert point_seconds(problem) > 0.0
    for tensor, weight in zip(problem.trainable, before, strict=True):
        assert torch.equal(tensor.parameter, weight)
