import math

import pytest
import torch
from torch import nn

from fromage_cli.theory.conversions import averaging_gain, largest_rate, muon_factor, relative_step, stationary_gain


@pytest.mark.parametrize(("momentum", "dampening"), [(0.0, 0.0), (0.9, 0.0), (0.8, 0.3)])
def test_the_gain_is_what_the_buffer_of_torchs_sgd_comes_to(momentum: float, dampening: float) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, dampening=dampening)
    before = 0.0
    for _ in range(400):
        weight.grad = torch.ones(1, dtype=torch.float64)
        before = weight.item()
        optimizer.step()
    assert before - weight.item() == pytest.approx(stationary_gain(momentum, dampening if momentum else 0.0))


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0.0, 0.0, False), (0.9, 0.0, False), (0.8, 0.3, False), (0.9, 0.0, True)]
)
def test_averaging_is_what_the_response_of_torchs_sgd_to_one_gradient_says(
    momentum: float, dampening: float, nesterov: bool
) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, dampening=dampening, nesterov=nesterov)
    places = [0.0]
    for step in range(400):  # the first gradient, which is not dampened, is zero
        weight.grad = torch.full((1,), float(step == 1), dtype=torch.float64)
        optimizer.step()
        places.append(weight.item())
    response = torch.tensor(places, dtype=torch.float64).diff()
    expected = float(response.sum() ** 2 / response.square().sum())
    assert averaging_gain(momentum, dampening if momentum else 0.0, nesterov) == pytest.approx(expected)


def test_muons_rate_follows_the_shape() -> None:
    assert muon_factor(64, 16, None) == muon_factor(64, 16, "original") == 2.0
    assert muon_factor(16, 64, None) == 1.0
    assert muon_factor(16, 64, "match_rms_adamw") == muon_factor(64, 16, "match_rms_adamw") == pytest.approx(1.6)


def test_the_layer_that_moves_most_limits_the_rate() -> None:
    assert largest_rate(0.1, {"a": 2.0, "b": 5.0}) == (pytest.approx(0.02), "b")
    assert relative_step(0.02, {"a": 2.0, "b": 5.0}) == pytest.approx(0.1)
    assert largest_rate(0.1, {}) == largest_rate(0.1, {"a": 0.0}) == largest_rate(0.1, {"a": math.inf}) == (None, None)
    assert relative_step(1.0, {}) is None
