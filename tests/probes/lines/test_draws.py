"""The spread over draws, against losses and gradients of the same draws in plain torch."""

from statistics import mean, stdev

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.breakdown.grid import DEFAULT, eta_grid
from fromage_cli.diagnostics.breakdown.measure import measure as measure_breakdown
from fromage_cli.diagnostics.sharpness.cost import Request, expected_products
from fromage_cli.diagnostics.sharpness.measure import measure as measure_sharpness
from fromage_cli.missing import NO_OTHER_DRAWS, found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.lines.draws import (
    CRITICAL,
    FURTHER,
    critical_over_draws,
    gradients_of_draws,
    measure_draw_spread,
)
from fromage_cli.probes.lines.updates import sgd_direction
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import OutputLoss
from fromage_cli.theory.random_draws import OtherDraws

GRID = eta_grid(DEFAULT)


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
        torch.manual_seed(problem.batch.seed(seed))
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
                    torch.manual_seed(problem.batch.seed(3 + further))
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


class NoisyLine(nn.Module):
    """Squared error of a linear map: its inputs, its size or nothing is random."""

    def __init__(self, noise: float, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.0, 1.0, 6).reshape(1, 6))
        self.noise, self.scale = noise, scale

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x + self.noise * torch.randn_like(x) if self.noise else x
        loss = ((x @ self.weight.T - y) ** 2).mean()
        return loss * (1.0 + self.scale * torch.rand(())) if self.scale else loss


def noisy_line(noise: float = 0.0, scale: float = 0.0) -> Problem:
    generator = torch.Generator().manual_seed(2)
    data = {"x": torch.randn(12, 6, generator=generator), "y": torch.randn(12, 1, generator=generator)}
    return Problem(NoisyLine(noise, scale), OutputLoss(), as_batch(data, "here"), seed=3)


def under_draw(problem: Problem, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient and Hessian at the weights, in plain torch."""
    weight, batch = problem.model.weight, problem.batch.data

    def loss(at: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(problem.batch.seed(seed))
        return torch.func.functional_call(problem.model, {"weight": at.reshape(1, 6)}, (batch["x"], batch["y"]))

    at = weight.detach().reshape(6)
    return torch.func.grad(loss)(at).double(), torch.autograd.functional.hessian(loss, at).double()


@pytest.mark.parametrize("kind", [{"noise": 0.5}, {"scale": 2.0}])
def test_the_trust_of_a_quadratic_under_other_draws_is_exact(kind: dict[str, float]) -> None:
    """The gradient changes by H d: Lemma 1 gives descent up to −⟨g, d⟩ / (‖H d‖ ‖d‖), whatever the loss's scale."""
    problem = noisy_line(**kind)
    result = found_of(measure_breakdown(problem, sgd_direction(problem, problem.receiving), GRID))[0]
    (step,) = sgd_direction(problem, problem.receiving).vector().values()
    d, places = step.reshape(6).double(), []
    for seed in (4, 5):
        gradient, hessian = under_draw(problem, seed)
        places.append(max(0.0, float(-(gradient @ d) / ((hessian @ d).norm() * d.norm()))))
    assert result.draws == OtherDraws(2, pytest.approx(min(places), rel=1e-3), pytest.approx(max(places), rel=1e-3))
    if "scale" in kind:
        assert result.draws.low == pytest.approx(result.aggregate_trust_eta, rel=0.02)
    else:
        assert result.draws.high > 1.01 * result.draws.low


@pytest.mark.parametrize("kind", [{"noise": 0.5}, {"scale": 2.0}])
def test_the_curvature_under_other_draws_is_that_of_their_dense_hessians(kind: dict[str, float]) -> None:
    problem = noisy_line(**kind)
    result = found_of(measure_sharpness(problem, problem.receiving, Optimizer(), None))[0]
    vector = torch.linalg.eigh(under_draw(problem, 3)[1])[1][:, -1]
    hessians = [under_draw(problem, seed)[1] for seed in (4, 5, 6)]
    along = [float(vector @ hessian @ vector) for hessian in hessians]
    assert result.draws == OtherDraws(3, pytest.approx(min(along), rel=1e-2), pytest.approx(max(along), rel=1e-2))
    assert result.draws.high <= 1.001 * max(float(torch.linalg.eigvalsh(hessian)[-1]) for hessian in hessians)
    if "scale" in kind:
        factors = []
        for seed in (3, 4, 5, 6):
            torch.manual_seed(problem.batch.seed(seed))
            factors.append(1.0 + 2.0 * float(torch.rand(())))
        top = result.eigenvalues[0].value
        assert result.draws.low == pytest.approx(top * min(factors[1:]) / factors[0], rel=1e-4)
        assert result.draws.high == pytest.approx(top * max(factors[1:]) / factors[0], rel=1e-4)


def test_what_other_draws_cost_is_told_and_nothing_is_measured_without_them() -> None:
    counts = {}
    for kind in (0.0, 2.0):
        told = expected_products(noisy_line(scale=kind), noisy_line().receiving, Optimizer(), Request())
        problem = noisy_line(scale=kind)
        sharp = found_of(measure_sharpness(problem, problem.receiving, Optimizer(), None))[0]
        products = problem.evaluations.hessian_vector_products
        line = noisy_line(scale=kind)
        bare = found_of(measure_breakdown(line, sgd_direction(line, line.receiving), GRID))[0]
        counts[kind] = told, products, line.evaluations.gradients, line.evaluations.hessian_vector_products
        assert (sharp.draws == NO_OTHER_DRAWS) == (bare.draws == NO_OTHER_DRAWS) == (kind == 0.0)
    without, noisy = counts.values()
    assert [more - less for more, less in zip(noisy, without, strict=True)] == pytest.approx([3, 3, 4, 0])
