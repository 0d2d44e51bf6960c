"""LAMB against Adam's own step, scaled to the norm of the weights."""

import pytest
import torch
from torch import nn

from fromage_cli.optim import LAMB


def twins(shape: tuple[int, ...] = (4, 3)) -> tuple[nn.Parameter, nn.Parameter]:
    torch.manual_seed(0)
    first = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    return first, nn.Parameter(first.detach().clone())


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_step_is_adams_at_the_norm_of_the_weights(decay: float) -> None:
    ours, torchs = twins()
    lamb = LAMB([ours], lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=decay)
    adam = torch.optim.AdamW([torchs], lr=1.0, betas=(0.8, 0.9), eps=1e-3, weight_decay=decay)
    for seed in range(3):
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ours.grad, torchs.grad = gradient, gradient
        before = ours.detach().clone()
        torchs.data = before.clone()
        lamb.step()
        adam.step()
        update = torchs.detach() - before
        expected = before + 0.01 * before.norm() / update.norm() * update
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-10, atol=1e-12)


def test_a_clipped_ratio_is_at_most_one() -> None:
    ours, torchs = twins()
    ours.data, torchs.data = 100 * ours.data, 100 * torchs.data
    ours.grad = torchs.grad = torch.ones(4, 3, dtype=torch.float64)
    LAMB([ours], lr=0.01, eps=1e-8, trust_clip=True).step()
    torch.optim.AdamW([torchs], lr=0.01, eps=1e-8, weight_decay=0.0).step()
    torch.testing.assert_close(ours, torchs)


def test_a_saved_state_goes_on() -> None:
    ours, again = twins()
    first, second = LAMB([ours], lr=0.1), LAMB([again], lr=0.1)
    ours.grad = torch.ones(4, 3, dtype=torch.float64)
    first.step()
    again.data = ours.data.clone()
    second.load_state_dict(first.state_dict())
    ours.grad = again.grad = torch.full((4, 3), -0.5, dtype=torch.float64)
    first.step()
    second.step()
    assert torch.equal(ours, again)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1)])
def test_a_beta_out_of_range_is_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="beta"):
        LAMB([nn.Parameter(torch.ones(1))], betas=betas)
