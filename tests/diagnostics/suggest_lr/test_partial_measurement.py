"""Numbers of the search against closed forms, and what it says it cost against what was counted."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.diagnostics.suggest_lr.result import SuggestedRates
from fromage_cli.missing import Missing, Why, found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import FORWARD, PRODUCT, gradients
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
SGD = Optimizer("sgd", 0.1)


def suggest(problem: Problem, optimizer: Optimizer = SGD, request: Request | None = None) -> SuggestedRates:
    return found_of(measure(problem, problem.receiving, optimizer, None, request=request))[0]


def costs(result: SuggestedRates) -> dict[str, float]:
    return {each.name: each.gradient_evaluations for each in result.estimates}


@pytest.mark.parametrize(
    "optimizer", [Optimizer("sgd", 0.1, 0.9), Optimizer("adamw", 0.01), Optimizer("fromage", 0.02)]
)
@pytest.mark.parametrize("smooth", [True, False])
def test_every_estimate_says_what_it_cost(
    make_problem: Maker, classification: Data, tanh_once: nn.Module, optimizer: Optimizer, smooth: bool
) -> None:
    """Base and noise are shared, and the sum goes on from the search by layers; together that is all that was done."""
    torch.manual_seed(2)
    bend = nn.ReLU() if smooth else tanh_once
    problem = make_problem(nn.Sequential(nn.Linear(8, 16), bend, nn.Linear(16, 3)), classification)
    request = Request(sharpness=smooth, probe="checkpoint")
    result = suggest(problem, optimizer, request)
    found = costs(result)
    for name in ("lemma2-count", "lemma2-path", "lemma2-effective"):
        assert found[name] == pytest.approx(2.0 + FORWARD)
    assert found["measured-sum"] == pytest.approx(3.0 + (PRODUCT if smooth else 0.0) + FORWARD + len(result.points))
    assert found["measured-sum"] >= found["measured"]
    along = [name for name in ("lemma2-count", "critical", "critical-independent", "sharpness") if name in found]
    total = found["measured-sum"] + sum(found[name] - 2.0 for name in along) + found["probe"]
    assert gradients(problem.evaluations) == pytest.approx(total, rel=1e-12)
    assert found["typical"] == 0.0


def test_a_network_of_vectors_alone_has_no_layer_for_lemma_2(make_problem: Maker) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 0.5, -0.5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.scale * x)

    x, y = (torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = {each.name: each for each in suggest(make_problem(Scales(), {"x": x, "y": y})).estimates}
    assert "there are none" in str(found["lemma2-count"].assumption) and isinstance(found["lemma2-count"].eta, Missing)


@pytest.fixture
def quadratic(make_problem: Maker) -> Problem:
    """Squared error of a linear map of 5 features to 2 outputs, in float64."""
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(48, size, generator=generator).double() for size in (5, 2))
    model = nn.Linear(5, 2, bias=False).double()
    nn.init.normal_(model.weight, generator=generator)
    return make_problem(model, {"x": x, "y": y})


def test_on_a_quadratic_the_limit_is_where_the_gradient_has_changed_by_its_own_size(quadratic: Problem) -> None:
    """Along W - lr g it changes by lr ||g H||, H = x^T x / n for the mean over n rows and 2 outputs."""
    x, weight = quadratic.batch.data["x"], quadratic.trainable[0].parameter.detach()
    gradient = quadratic.base.gradients["weight"]
    rate = float(gradient.norm() / (gradient @ (x.T @ x / 48)).norm())
    eta = rate * float(gradient.norm() / weight.norm())
    result = suggest(quadratic)
    (layer,), limit = result.layers, result.limit
    assert layer.linear_trust_eta == pytest.approx(eta, rel=1e-9)
    assert not any(isinstance(found, Missing) for found in (limit.eta, limit.upper_eta, limit.learning_rate))
    assert limit.eta < eta <= limit.upper_eta <= 1.05 * limit.eta
    assert limit.learning_rate == pytest.approx(limit.eta * rate / eta, rel=1e-9)
    assert layer.learning_rate == pytest.approx(limit.learning_rate, rel=1e-9)
    assert layer.trust_eta == pytest.approx(eta, rel=1e-9)  # between points on a straight line in log-log
    assert limit.upper_eta in [point.eta for point in result.points if point.excess >= 1.0]
    for point in result.points:
        assert point.excess == pytest.approx(point.eta / eta, rel=1e-9)


@pytest.mark.parametrize("spread", [0.5, 8.0])
def test_the_noise_scale_and_its_range_are_those_of_the_chunks_gradients(make_problem: Maker, spread: float) -> None:
    """48 rows in 16 chunks of 3: tr Sigma / ||g||^2 over weight and bias, 1 / (inverse ± its jackknife's error)."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(48, 4, generator=generator).double()
    y = x.sum(1, keepdim=True) + spread * torch.randn(48, 1, generator=generator).double()
    model = nn.Linear(4, 1).double()
    nn.init.zeros_(model.weight)
    nn.init.ones_(model.bias)
    inputs = np.concatenate([x.numpy(), np.ones((48, 1))], axis=1)
    rows = 2.0 * (1.0 - y.numpy()) * inputs
    parts = rows.reshape(16, 3, 5).mean(1)

    def inverse(chosen: np.ndarray) -> float:
        count = len(chosen)
        total, squares = float((chosen.sum(0) ** 2).sum()), float((chosen**2).sum())
        signal = (total - squares) / (count * (count - 1))
        return signal / (3.0 * (squares - total / count) / (count - 1))

    without = np.array([inverse(np.delete(parts, index, axis=0)) for index in range(16)])
    error = math.sqrt(15.0 / 16.0 * float(((without - without.mean()) ** 2).sum()))
    middle = inverse(parts)
    result = suggest(make_problem(model, {"x": x, "y": y}))
    assert result.noise_rows == 3
    assert result.noise_scale == pytest.approx(1.0 / middle, rel=1e-9)
    assert result.noise_scale_low == pytest.approx(1.0 / (middle + error), rel=1e-9)
    if middle > error:
        assert result.noise_scale_high == pytest.approx(1.0 / (middle - error), rel=1e-9)
    else:
        assert result.noise_scale_high.code == Why.HIDDEN_BY_NOISE
