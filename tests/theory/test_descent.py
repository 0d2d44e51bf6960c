import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.theory.descent import GroupStep, loss_change_bound


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
