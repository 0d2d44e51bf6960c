"""LARS with momentum, decay and clipping, against steps worked out by hand and its own plain form."""

import pytest
import torch
from torch import nn

from fromage_cli.optim import LARS


def tensor(values: list[float], gradient: list[float]) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    return parameter


def test_momentum_keeps_the_scaled_gradients() -> None:
    weight = tensor([3.0, 4.0], [0.0, 2.0])
    optimizer = LARS([weight], lr=0.1, momentum=0.5, trust_coefficient=0.2)
    optimizer.step()  # ratio .2 * 5 / 2 = .5, so that the buffer is (0, 1)
    assert weight.tolist() == pytest.approx([3.0, 3.9])
    weight.data = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()  # buffer .5 (0, 1) + (0, 1)
    assert weight.tolist() == pytest.approx([3.0, 3.85])


def test_dampening_and_nesterov_are_those_of_torchs_sgd() -> None:
    weight, plain = tensor([3.0, 4.0], [0.6, -0.8]), tensor([3.0, 4.0], [3.0, -4.0])
    for nesterov, dampening in ((True, 0.0), (False, 0.3)):
        ours = LARS([weight], lr=0.1, momentum=0.5, nesterov=nesterov, dampening=dampening)
        torchs = torch.optim.SGD([plain], lr=0.1, momentum=0.5, nesterov=nesterov, dampening=dampening)
        for _ in range(3):
            weight.data = plain.data = torch.tensor([3.0, 4.0], dtype=torch.float64)
            ours.step()  # the gradient has norm 1, scaled to 5
            torchs.step()
            assert weight.tolist() == pytest.approx(plain.tolist())


def test_decay_counts_in_the_ratio_and_in_the_step() -> None:
    weight = tensor([3.0, 4.0], [0.0, 2.0])
    LARS([weight], lr=0.1, weight_decay=0.2, trust_coefficient=0.3).step()  # ratio .3 * 5 / (2 + .2 * 5) = .5
    assert weight.tolist() == pytest.approx([3.0 - 0.05 * 0.6, 4.0 - 0.05 * 2.8])


def test_a_clipped_step_is_never_longer_than_that_of_plain_descent() -> None:
    weight = tensor([3.0, 4.0], [0.0, 2.0])
    LARS([weight], lr=0.1, trust_coefficient=0.02, trust_clip=True).step()  # ratio .05 / .1 below 1
    assert weight.tolist() == pytest.approx([3.0, 3.9])
    weight = tensor([3.0, 4.0], [0.0, 2.0])
    LARS([weight], lr=0.1, trust_clip=True).step()
    assert weight.tolist() == pytest.approx([3.0, 3.8])


def test_a_tensor_of_zeros_takes_the_plain_step() -> None:
    weight = tensor([0.0, 0.0], [0.0, 2.0])
    LARS([weight], lr=0.1, trust_coefficient=0.001).step()
    assert weight.tolist() == pytest.approx([0.0, -0.2])
