"""Lion against its formula, step by step."""

import pytest
import torch
from torch import nn

from fromage_cli.optim import Lion


def test_every_entry_moves_by_the_rate() -> None:
    weight = nn.Parameter(torch.tensor([3.0, -4.0, 0.5], dtype=torch.float64))
    weight.grad = torch.tensor([0.1, -20.0, 0.0], dtype=torch.float64)
    Lion([weight], lr=0.25).step()
    assert weight.tolist() == pytest.approx([2.75, -3.75, 0.5])


def test_the_momentum_is_interpolated_twice() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Lion([weight], lr=1.0, betas=(0.5, 0.9))
    momentum = position = 0.0
    for gradient in (1.0, -0.05, -0.05, -0.2, 3.0):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        position -= 1.0 if 0.5 * momentum + 0.5 * gradient > 0 else -1.0
        momentum = 0.9 * momentum + 0.1 * gradient
        assert weight.item() == position
        assert optimizer.state[weight]["exp_avg"].item() == pytest.approx(momentum)


def test_decay_is_decoupled() -> None:
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    weight.grad = torch.tensor([1.0], dtype=torch.float64)
    Lion([weight], lr=0.1, weight_decay=0.5).step()
    assert weight.item() == pytest.approx(2.0 * (1 - 0.05) - 0.1)
