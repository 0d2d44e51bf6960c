import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.theory.network_distance import (
    angle_between,
    log10_function_bound,
    straight_step,
    wandering_step,
)


def draw_networks(
    seed: int, widths: list[int], scale: float
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Two bias-free perceptrons, `scale` apart in relative size, and an input."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    first = [draw(out, inputs) for inputs, out in pairwise(widths)]
    steps = [draw(*weight.shape) for weight in first]
    second = [w + scale * s * w.norm() / s.norm() for w, s in zip(first, steps, strict=True)]
    return first, second, draw(widths[0])


def forward(weights: list[torch.Tensor], hidden: torch.Tensor, slope: float) -> torch.Tensor:
    for weight in weights:
        hidden = torch.nn.functional.leaky_relu(weight @ hidden, slope)
    return hidden


def condition(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    matrices = [*first, *second, *(b - a for a, b in zip(first, second, strict=True))]
    return max(float(s[0] / s[-1]) for s in map(torch.linalg.svdvals, matrices))


networks = given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.floats(1e-3, 1.0),
    st.sampled_from([1.0, 0.5, 0.1]),
)


@settings(max_examples=100, deadline=None)
@networks
def test_theorem_1_bounds_the_relative_distance_of_the_functions(
    seed: int, growth: list[int], scale: float, slope: float
) -> None:
    widths = [2]
    for step in growth:
        widths.append(widths[-1] + step)
    first, second, inputs = draw_networks(seed, widths, scale)
    before, after = forward(first, inputs, slope), forward(second, inputs, slope)
    relative = [float((b - a).norm() / a.norm()) for a, b in zip(first, second, strict=True)]
    bound = log10_function_bound(relative, condition(first, second), alpha=slope, beta=1.0)
    assert math.log10(float((after - before).norm() / before.norm())) <= bound + 1e-9


def test_the_bound_by_hand() -> None:
    assert log10_function_bound([1.0, 1.0], 10.0, 1.0, 1.0) == pytest.approx(4 + math.log10(3))
    assert log10_function_bound([1.0], 10.0, 0.5, 1.0) == pytest.approx(math.log10(200))
    assert log10_function_bound([1e6] * 60, 1e160, 1.0, 1.0) == pytest.approx(60 * 320 + 360)
    assert log10_function_bound([0.0], 10.0, 1.0, 1.0) == -math.inf


def test_implied_steps_of_walks() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(20_000, generator=generator, dtype=torch.float64)
    straight, wandering = start.clone(), start.clone()
    for _ in range(50):
        straight += 0.01 * straight
        step = torch.randn(20_000, generator=generator, dtype=torch.float64)
        step -= wandering * (step @ wandering) / (wandering @ wandering)
        wandering += 0.02 * wandering.norm() * step / step.norm()
    assert straight_step(float((straight - start).norm() / start.norm()), 50) == pytest.approx(0.01, rel=1e-9)
    cosine = float(wandering @ start / (wandering.norm() * start.norm()))
    assert wandering_step(math.acos(cosine), 50) == pytest.approx(0.02, rel=0.05)
    assert wandering_step(2.0, 50) is None
    assert straight_step(1e-14, 1) == pytest.approx(1e-14) and wandering_step(1e-9, 1) == pytest.approx(1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1.0, math.pi])
def test_angles_from_chords(angle: float) -> None:
    assert angle_between(2 * math.sin(angle / 2), 2 * math.cos(angle / 2)) == pytest.approx(angle, rel=1e-12)
