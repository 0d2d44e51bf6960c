import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.theory.relative_trust import (
    GroupStep,
    angle_between,
    implied_depth,
    lemma2_rate,
    log10_function_bound,
    loss_change_bound,
    predicted_breakdown,
    spectral_step,
    straight_step,
    wandering_step,
)
from fromage_cli.theory.singular_values import spectral_norm, stable_rank


def test_a_step_along_the_gradient_without_breakdown_gains_the_product_of_norms() -> None:
    assert loss_change_bound([GroupStep(2.0, 3.0, 1.0, 0.0), GroupStep(1.0, 1.0, 0.5, 0.5)]) == -6.0


def test_a_group_without_gradient_costs_its_absolute_change() -> None:
    assert loss_change_bound([GroupStep(0.0, 2.0, 0.0, 0.25)]) == 0.5


def test_a_breakdown_that_is_not_a_number_bounds_nothing() -> None:
    assert loss_change_bound([GroupStep(1.0, 1.0, 1.0, math.nan)]) == math.inf


def test_a_group_that_does_not_move_contributes_nothing() -> None:
    assert loss_change_bound([GroupStep(1.0, 0.0, 0.0, math.inf)]) == 0.0


class Perceptron:
    """A random tanh network of float64 matrices with its loss, gradient and a random step."""

    def __init__(self, seed: int, depth: int, scale: float) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weights = [draw(4, 4) for _ in range(depth)]
        self.steps = [scale * draw(4, 4) for _ in range(depth)]
        self.inputs, self.targets = draw(6, 4), draw(6, 4)

    def loss_and_gradients(self, t: float) -> tuple[float, list[torch.Tensor]]:
        losses, gradients = self.along(torch.tensor([t], dtype=torch.float64))
        return float(losses[0]), [gradient[0] for gradient in gradients]

    def along(self, times: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The losses [times] and the gradients [times, 4, 4] of all points of the path at once."""
        moved = [(w + times[:, None, None] * s).requires_grad_() for w, s in zip(self.weights, self.steps, strict=True)]
        hidden = self.inputs
        for weight in moved:
            hidden = torch.tanh(hidden @ weight.mT)  # [times, 6, 4]
        losses = (hidden - self.targets).square().mean((1, 2))
        return losses.detach(), list(torch.autograd.grad(losses.sum(), moved))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(1e-4, 2.0))
def test_lemma_1_bounds_the_change_of_the_loss_for_any_direction(seed: int, depth: int, scale: float) -> None:
    network = Perceptron(seed, depth, scale)
    start, gradients = network.loss_and_gradients(0.0)
    losses, moved = network.along(torch.arange(1, 201, dtype=torch.float64) / 200)
    end = float(losses[-1])
    changes = [float((m - g).flatten(1).norm(dim=1).max()) for m, g in zip(moved, gradients, strict=True)]
    steps = [
        GroupStep(
            float(g.norm()),
            float(s.norm()),
            float(-(g * s).sum() / (g.norm() * s.norm())),
            change / float(g.norm()),
        )
        for g, s, change in zip(gradients, network.steps, changes, strict=True)
    ]
    slack = 2e-2 * sum(s.step_norm * (s.breakdown + 1) * s.gradient_norm for s in steps)  # the path is sampled
    assert end - start <= loss_change_bound(steps) + slack


def test_lemma_1_is_tight_to_first_order() -> None:
    network = Perceptron(3, 3, 1.0)
    start, gradients = network.loss_and_gradients(0.0)
    size = 1e-5
    network.steps = [-size * g / g.norm() for g in gradients]
    end, moved = network.loss_and_gradients(1.0)
    steps = [
        GroupStep(float(g.norm()), size, 1.0, float((m - g).norm() / g.norm()))
        for g, m in zip(gradients, moved, strict=True)
    ]
    assert end - start == pytest.approx(loss_change_bound(steps), rel=1e-3)


@pytest.mark.parametrize(
    ("depth", "rate"),
    [(1, 1.0), (2, 0.4142), (3, 0.2599), (5, 0.1487), (10, 0.0718), (16, 0.0443), (20, 0.0353), (50, 0.01396)],
)
def test_lemma_2_gives_the_published_rates(depth: int, rate: float) -> None:
    assert lemma2_rate(1.0, depth) == pytest.approx(rate, abs=5e-5)


def test_lemma_2_allows_nothing_when_the_step_does_not_descend() -> None:
    assert lemma2_rate(-0.5, 3) == 0.0


@given(st.lists(st.floats(0, 3), max_size=20))
def test_the_prediction_is_the_product_less_one(steps: list[float]) -> None:
    assert predicted_breakdown(steps) == pytest.approx(math.prod(1 + s for s in steps) - 1, rel=1e-9, abs=1e-12)


@given(st.floats(0.01, 1.0), st.integers(1, 300))
def test_implied_depth_inverts_lemma_2(cosine: float, depth: int) -> None:
    assert implied_depth(cosine, lemma2_rate(cosine, depth)) == pytest.approx(depth, rel=1e-9)


def test_a_prediction_beyond_the_largest_number_is_infinite() -> None:
    assert predicted_breakdown([1e6] * 60) == math.inf


def test_the_spectral_step_is_the_ratio_of_spectral_norms() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    step = torch.outer(torch.randn(20, generator=generator), torch.randn(30, generator=generator)).double()
    delta = float(step.norm() / weight.norm())
    expected = spectral_norm(step) / spectral_norm(weight)
    assert spectral_step(delta, stable_rank(weight), stable_rank(step)) == pytest.approx(expected, rel=1e-9)


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
