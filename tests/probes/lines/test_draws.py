"""The spread over draws, against losses and gradients of the same draws in plain torch."""

from statistics import mean, stdev

import pytest
import torch
from torch import nn

from fromage_cli.probes.lines.draws import (
    CRITICAL,
    FURTHER,
    critical_over_draws,
    gradients_of_draws,
    measure_draw_spread,
)
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import OutputLoss


class Noisy(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.encode, self.decode = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean()
        return ((self.decode(drawn) - x) ** 2).sum(1).mean() + divergence


def autoencoder(seed: int = 3) -> tuple[Problem, torch.Tensor]:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(2))
    return Problem(Noisy(), OutputLoss(), as_batch({"x": x}, "here"), seed=seed), x


def test_loss_and_gradient_over_draws() -> None:
    problem, x = autoencoder()
    found = measure_draw_spread(problem)
    losses, gradients = [], []
    for seed in range(3, 4 + FURTHER):
        torch.manual_seed(seed)
        loss = problem.model(x)
        parts = torch.autograd.grad(loss, list(problem.model.parameters()))
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([part.flatten() for part in parts]).double())
    stacked = torch.stack(gradients)
    spread = (stacked - stacked.mean(0)).square().sum() / FURTHER
    assert found.seeds == FURTHER + 1 and problem.evaluations.gradients == FURTHER + 1
    assert found.loss_mean == pytest.approx(mean(losses), rel=1e-6)
    assert found.loss_spread == pytest.approx(stdev(losses), rel=1e-4)
    assert found.gradient_spread == pytest.approx(float(spread.sqrt() / stacked.mean(0).norm()), rel=1e-4)


def test_the_rate_that_raises_the_loss_of_other_draws() -> None:
    problem, x = autoencoder()
    step = {name: gradient.clone() for name, gradient in problem.base.gradients.items()}
    rates = critical_over_draws(problem, step, 0.01)
    parameters = dict(problem.model.named_parameters())
    for further, rate in enumerate(rates, 1):

        def change(factor: float, further: int = further, rate: float | None = rate) -> float:
            assert rate is not None
            losses = []
            for moved in (0.0, factor * rate):
                with torch.no_grad():
                    for name, part in step.items():
                        parameters[name].sub_(moved * part)
                    torch.manual_seed(3 + further)
                    losses.append(float(problem.model(x)))
                    for name, part in step.items():
                        parameters[name].add_(moved * part)
            return losses[1] - losses[0]

        assert change(1 / 1.2) < 0.0 < change(1.2)
    assert len(set(rates)) == FURTHER


def test_what_other_draws_cost_is_told_beforehand() -> None:
    problem, x = autoencoder()
    problem.value()
    told, before = gradients_of_draws(problem), problem.evaluations.gradients
    measure_draw_spread(problem)
    assert told == pytest.approx(problem.evaluations.gradients - before + 1.0 / 3.0)
    done = problem.evaluations
    step = {name: gradient.clone() for name, gradient in problem.base.gradients.items()}
    gradients, forwards = done.gradients, done.forwards
    critical_over_draws(problem, step, 0.01)
    assert pytest.approx(done.gradients - gradients + (done.forwards - forwards) / 3.0, rel=0.3) == CRITICAL
    plain = Problem(nn.Linear(8, 2), OutputLoss(), as_batch({"input": x}, "here"))
    plain.conditions.drew = False
    assert gradients_of_draws(plain) == 0.0 and plain.evaluations.gradients == 0.0
