"""Sizes of last steps against the optimizers that take them, in float64."""

from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.optim import LAMB
from fromage_cli.optimizers.last_update import adafactor_bound, lamb_update_norm


def stepped(
    make: Any, steps: int, start: float = 1.0, scale: float = 1.0, **settings: Any
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The state, the weights after some steps, and before the last of them."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(start * torch.randn(6, 4, dtype=torch.float64, generator=generator))
    optimizer, before = make([weight], **settings), weight.detach().clone()
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = scale * torch.randn(6, 4, dtype=torch.float64, generator=generator)
        optimizer.step()
    return optimizer.state[weight], weight.detach(), before


@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.2])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"weight_decay": 1.0, "trust_clip": True}])
@pytest.mark.parametrize("start", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_last_step_of_lamb_is_told_by_its_end(rate: float, settings: Any, start: float, steps: int) -> None:
    slot, weight, before = stepped(LAMB, steps, start, lr=rate, **settings)
    first = slot["exp_avg"] / (1 - 0.9**steps)
    adams = first / ((slot["exp_avg_sq"] / (1 - 0.999**steps)).sqrt() + 1e-6)
    squares = tuple(float(one.sum()) for one in (weight * weight, weight * adams, adams * adams))
    found = lamb_update_norm(
        squares, rate, settings.get("weight_decay", 0.0), trust_clip=settings.get("trust_clip", False)
    )
    assert found == pytest.approx(float((before - weight).norm()) / rate, rel=1e-8)


def test_lamb_without_an_end_that_a_step_can_have() -> None:
    assert lamb_update_norm((1.0, 0.0, 1.0), 2.0, 0.0) is None
    assert lamb_update_norm((1.0, 0.0, 0.0), 0.1, 0.0) == 0.0


@pytest.mark.parametrize("start", [1e-5, 0.02, 3.0])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3, "lr": 0.2}, {"lr": 1.0, "d": 1.5}])
@pytest.mark.parametrize("steps", [3, 30])
def test_no_step_of_adafactor_is_beyond_its_bound(start: float, settings: Any, steps: int) -> None:
    _, weight, before = stepped(torch.optim.Adafactor, steps, start, **settings)
    given = {"d": 1.0, "weight_decay": 0.0, "lr": 0.01, **settings}
    moved = float((before * (1.0 - given["lr"] * given["weight_decay"]) - weight).norm() / weight.norm())
    size = float(weight.square().mean().sqrt())
    rate = min(given["lr"], steps**-0.5)
    bound = adafactor_bound(size, rate, clip=given["d"], shrinkage=given["lr"] * given["weight_decay"], least=1e-3)
    if bound is not None:
        assert moved <= bound * (1.0 + 1e-9)
    assert settings.get("lr") == 1.0 or (bound is not None and moved > 0.4 * bound)


def test_the_bound_of_adafactor_without_scaling_by_weights() -> None:
    assert adafactor_bound(2.0, 0.01, clip=1.0) == pytest.approx(0.005)
    assert adafactor_bound(0.0, 0.01, clip=1.0) is None
    assert adafactor_bound(2.0, 1.0, clip=1.0, least=1e-3) is None
