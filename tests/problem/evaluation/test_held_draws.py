"""Parts of the rows against plain torch with the whole batch's random numbers cut by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.held_draws import on_parts
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import FunctionLoss, OutputLoss

X = torch.randn(12, 8, generator=torch.Generator().manual_seed(2))


class Flow(nn.Module):
    """A step of a flow or a diffusion: the time and the noise of every row are drawn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(9, 16), nn.SiLU(), nn.Linear(16, 8))

    def loss(self, x: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        mixed = torch.cat([(1 - time)[:, None] * x + time[:, None] * noise, time[:, None]], 1)
        return (self.net(mixed) - (noise - x)).square().mean()

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(x, torch.rand(len(x), dtype=x.dtype), torch.randn_like(x))


def parts(problem: Problem, size: int = 4) -> list[Batch]:
    return [problem.batch.rows(start, start + size) for start in range(0, problem.rows, size)]


def gradient(problem: Problem) -> tuple[float, dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    loss = problem.visit_gradient(lambda tensor, gradient: found.__setitem__(tensor.name, gradient.clone()))
    return loss, found


def test_every_part_is_evaluated_with_its_rows_of_the_batchs_draws() -> None:
    model = Flow()
    problem = Problem(model, OutputLoss(), as_batch({"x": X}, "here"), seed=6)
    alone = on_parts(problem, parts(problem))
    assert not problem.draws_apart
    torch.manual_seed(problem.batch.seed(6))
    time, noise = torch.rand(12), torch.randn_like(X)
    mean = {name: torch.zeros_like(value) for name, value in problem.base.gradients.items()}
    for place, part in enumerate(alone):
        rows = slice(4 * place, 4 * place + 4)
        expected = model.loss(X[rows], time[rows], noise[rows])
        loss, found = gradient(part)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
        for name, weight in model.named_parameters():
            torch.testing.assert_close(found[name], torch.autograd.grad(expected, weight, retain_graph=True)[0])
        for name, each in found.items():
            mean[name] += each / 3
    for name, each in problem.base.gradients.items():
        torch.testing.assert_close(mean[name], each, rtol=1e-4, atol=1e-6)


def test_masks_of_dropout_are_held_too() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.4), nn.Linear(16, 1), nn.Dropout(0.2))
    loss = FunctionLoss("mean", lambda model, data: model(data["x"]).square().mean())
    problem = Problem(model, loss, as_batch({"x": X}, "here"), mode="train")
    alone = on_parts(problem, parts(problem))
    assert not problem.draws_apart
    assert sum(part.value() for part in alone) / 3 == pytest.approx(problem.base.loss, rel=1e-6)


def test_both_precisions_draw_the_same_noise() -> None:
    losses = [
        Problem(Flow().to(dtype), OutputLoss(), as_batch({"x": X.to(dtype)}, "here")).base.loss
        for dtype in (torch.float32, torch.float64)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


class Shuffles(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(0.7 * x + 0.3 * x[torch.randperm(len(x))]).square().mean()


class Recomputes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        def noisy(x: Tensor) -> Tensor:
            return self.inner(x + torch.randn_like(x)).tanh()

        found: Tensor = checkpoint(noisy, x, use_reentrant=False)
        return found.square().mean()


class FromNumpy(Flow):
    def forward(self, x: Tensor) -> Tensor:
        return self.loss(x, torch.from_numpy(np.random.rand(len(x))).float(), torch.randn_like(x))


@pytest.mark.parametrize(
    ("make", "micro_batch"),
    [(lambda: Shuffles(8, 8), None), (Recomputes, None), (Flow, 6), (FromNumpy, None)],
    ids=["order", "again", "cut", "numpy"],
)
def test_what_cannot_be_held_is_drawn_by_each_part(make: Callable[[], Any], micro_batch: int | None) -> None:
    torch.manual_seed(4)
    problem = Problem(make(), OutputLoss(), as_batch({"x": X}, "here"), micro_batch=micro_batch)
    alone = on_parts(problem, parts(problem, 6))
    assert problem.draws_apart and all(part.held is None for part in alone)
    assert gradient(alone[0])[0] == problem.on(problem.batch.rows(0, 6)).value()


class Twice(Flow):
    """Draws for two copies of the rows, one behind the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(torch.cat([x, x]), torch.rand(2 * len(x)), torch.randn(2 * len(x), 8))


def test_what_is_held_by_a_guess_counts_as_drawn_apart() -> None:
    problem = Problem(Twice(), OutputLoss(), as_batch({"x": X}, "here"))
    alone = on_parts(problem, parts(problem))
    assert problem.draws_apart and all(part.held is not None for part in alone)


def test_without_random_numbers_nothing_is_held_and_nothing_spent() -> None:
    model = nn.Sequential(nn.Linear(8, 1))
    loss = FunctionLoss("mean", lambda model, data: model(data["x"]).square().mean())
    problem = Problem(model, loss, as_batch({"x": X}, "here"))
    assert all(part.held is None for part in on_parts(problem, parts(problem)))
    assert not problem.draws_apart and problem.evaluations.forwards == 0.0 and problem.evaluations.gradients == 1.0
