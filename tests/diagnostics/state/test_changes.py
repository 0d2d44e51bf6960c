"""What changes between two checkpoints against real optimizers and the worst gradients, entry by entry."""

import math
from itertools import pairwise
from typing import Any

import numpy
import pytest
import torch

from fromage_cli.diagnostics.state.changes import Changes, MomentReach, Reach, WeightReach
from fromage_cli.theory.moment_bounds import step_bound

Arrays = dict[str, numpy.ndarray]
STEPS = 25
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "float16": torch.float16}


def arrays_of(weight: torch.Tensor, slot: dict[str, Any]) -> Arrays:
    held = {"weight": weight.detach(), **{name: value for name, value in slot.items() if name != "step"}}
    kept = torch.promote_types(weight.dtype, torch.float32)
    return {name: value.to(kept).numpy().flatten() for name, value in held.items()}


def stepped(dtype: str, updates: int, betas: tuple[float, float], **settings: Any) -> tuple[Arrays, Arrays]:
    """A tensor and its moments before and after so many updates with gradients of many sizes."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(500, generator=generator).to(DTYPES[dtype]))
    optimizer, before = torch.optim.Adam([weight], lr=1e-3, betas=betas, **settings), {}
    for step in range(STEPS + updates):
        if step == STEPS:
            before = arrays_of(weight, optimizer.state[weight])
        size = 10.0 ** (4.0 * torch.rand(500, generator=generator) - 2.0)
        weight.grad = (torch.randn(500, generator=generator) * size * (step % 3 != 1)).to(weight.dtype)
        optimizer.step()
    return before, arrays_of(weight, optimizer.state[weight])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "float16"])
@pytest.mark.parametrize("updates", [1, 2, 30, 300])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.95, 0.9)])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_no_update_breaks_a_bound(dtype: str, updates: int, betas: tuple[float, float], amsgrad: bool) -> None:
    before, after = stepped(dtype, updates, betas, amsgrad=amsgrad)
    found = Reach(MomentReach(*betas, float(updates), dtype, dtype), None).changes(before, after)
    assert (found.entries, found.fallen, found.strayed) == (500, 0, 0)
    assert found.remade > 0


@pytest.mark.parametrize("updates", [1, 5, 40])
def test_the_worst_gradients_reach_the_bound_and_a_little_more_breaks_it(updates: int) -> None:
    beta1, beta2 = 0.9, 0.999
    m, v = 0.3, 0.2
    before = {"weight": numpy.zeros(1), "exp_avg": numpy.array([m]), "exp_avg_sq": numpy.array([v])}
    for back in reversed(range(updates)):
        gradient = 5.0 * (beta1 / beta2) ** back
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    reach = Reach(MomentReach(beta1, beta2, float(updates), "float64", "float64"), None)
    moved = m - beta1**updates * 0.3
    for factor, broken in ((1.0, 0), (1.0 + 1e-9, 1)):
        after = {**before, "exp_avg": numpy.array([m + (factor - 1.0) * moved]), "exp_avg_sq": numpy.array([v])}
        assert reach.changes(before, after).strayed == broken


def test_v_falls_no_faster_than_without_gradients() -> None:
    before = {"weight": numpy.zeros(2), "exp_avg": numpy.zeros(2), "exp_avg_sq": numpy.ones(2)}
    left = 0.999**10
    after = {**before, "exp_avg_sq": numpy.array([left, left * (1 - 1e-9)])}
    assert Reach(MomentReach(0.9, 0.999, 10.0, "float64", "float64"), None).changes(before, after).fallen == 1


def test_sixteen_bits_remember_less() -> None:
    for dtype, error in (("float32", 2.0**-24), ("bfloat16", 2.0**-8)):
        assert MomentReach(0.9, 0.95, 20.0, dtype, dtype).remembered == pytest.approx((0.95 * (1 - 4 * error)) ** 20)


def test_a_weight_moves_as_far_as_the_rates_and_decay_allow() -> None:
    reach = WeightReach(distance=0.5, kept=0.9, rounding=0.0)
    before = numpy.array([1.0, 1.0, 1.0, 1.0, -1.0])
    after = numpy.array([1.499, 1.501, 0.401, 0.399, -0.399])
    assert reach.broken(before, after) == (3, 0)
    assert reach.broken(before, 20.0 * after) == (5, 5)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95), (0.5, 0.9), (0.95, 0.9)])
def test_the_largest_entry_grows_with_the_updates(betas: tuple[float, float]) -> None:
    """So that the bound at the last of some updates is one of all of them."""
    bounds = [step_bound(*betas, float(steps)) for steps in range(1, 400)]
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in pairwise(bounds))
    assert math.isclose(bounds[0], 1.0)


def test_counts_add_up_over_blocks() -> None:
    size = 2**15 + 7
    before = {"weight": numpy.zeros(size), "momentum_buffer": numpy.ones(size)}
    after = {"weight": numpy.arange(size) % 2 * 1.0, "momentum_buffer": numpy.ones(size)}
    found = Reach(None, None).changes(before, after)
    assert found == Changes(entries=size, moved=size // 2, remade=0, filled=size, filled_before=size)
