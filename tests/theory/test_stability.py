import csv
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.probes.curvature.lanczos import largest_eigenvalues
from fromage_cli.theory.stability import (
    EDGE,
    INITIAL_BANDS,
    TRAINED_BANDS,
    adam_threshold,
    momentum_threshold,
    nesterov_threshold,
    regime,
)

RATE = 0.01
STEPS = 3000


def diverges(curvature: float, make: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> bool:
    """Whether an optimizer runs away on curvature w^2 / 2."""
    weight = torch.tensor([1e-3], dtype=torch.float64, requires_grad=True)
    optimizer = make([weight])
    for _ in range(STEPS):
        weight.grad = curvature * weight.detach()
        optimizer.step()
        if not abs(float(weight.detach())) < 1e3:
            return True
    return False


def sgd(**settings: Any) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    return lambda weights: torch.optim.SGD(weights, lr=RATE, **settings)


@pytest.mark.parametrize(
    ("make", "threshold", "added"),
    [
        (sgd(), momentum_threshold(RATE), 0.0),
        (sgd(momentum=0.9), momentum_threshold(RATE, 0.9), 0.0),
        (sgd(momentum=0.9, dampening=0.9), momentum_threshold(RATE, 0.9, 0.9), 0.0),
        (sgd(dampening=0.5), momentum_threshold(RATE, 0.0, 0.5), 0.0),
        (sgd(momentum=0.5, nesterov=True), nesterov_threshold(RATE, 0.5), 0.0),
        (sgd(momentum=0.9, nesterov=True), nesterov_threshold(RATE, 0.9), 0.0),
        (sgd(weight_decay=60.0), momentum_threshold(RATE), 60.0),
        (sgd(momentum=0.9, weight_decay=60.0), momentum_threshold(RATE, 0.9), 60.0),
    ],
)
def test_training_diverges_above_the_threshold_and_not_below(
    make: Callable[..., torch.optim.Optimizer], threshold: float, added: float
) -> None:
    assert not diverges(0.97 * threshold - added, make)
    assert diverges(1.03 * threshold - added, make)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 20.0])
@pytest.mark.parametrize("coupled", [0.0, 60.0])
def test_with_a_fixed_preconditioner_adam_diverges_above_its_threshold(
    beta1: float, decay: float, coupled: float
) -> None:
    """v stays at v0 = 1 and t is large, so that P = 1 + eps and the preconditioned curvature is the curvature."""

    def runs_away(curvature: float) -> bool:
        weight, first = 1e-3, 0.0
        for _ in range(STEPS):
            first = beta1 * first + (1.0 - beta1) * (curvature + coupled) * weight
            weight = weight * (1.0 - RATE * decay) - RATE * first
            if not abs(weight) < 1e3:
                return True
        return False

    threshold = adam_threshold(RATE, beta1, decay)
    assert not runs_away(0.97 * threshold - coupled)
    assert runs_away(1.03 * threshold - coupled)


@pytest.mark.parametrize(
    ("make", "threshold", "added"),
    [
        (torch.optim.Adam, adam_threshold(RATE, 0.9), 0.0),
        (partial(torch.optim.Adam, weight_decay=400.0), adam_threshold(RATE, 0.9), 400.0),
        (partial(torch.optim.AdamW, weight_decay=20.0), adam_threshold(RATE, 0.9, 20.0), 0.0),
    ],
)
def test_the_real_adam_turns_at_its_threshold(
    make: Callable[..., torch.optim.Optimizer], threshold: float, added: float
) -> None:
    """torch's own optimizers take the steps, with v held at 1."""

    def grown(curvature: float) -> float:
        weight = torch.full((1,), 1e-6, dtype=torch.float64, requires_grad=True)
        optimizer = make([weight], lr=RATE, betas=(0.9, 0.999), eps=1e-12)
        optimizer.state[weight] = {
            "step": torch.tensor(1e6),
            "exp_avg": torch.zeros(1, dtype=torch.float64),
            "exp_avg_sq": torch.ones(1, dtype=torch.float64),
        }
        for _ in range(80):
            weight.grad = curvature * weight.detach()
            optimizer.step()
            optimizer.state[weight]["exp_avg_sq"].fill_(1.0)
        return abs(float(weight.detach())) / 1e-6

    assert grown(0.95 * threshold - added) < 1.0 < grown(1.05 * threshold - added)


@pytest.mark.parametrize("rate", [0.45, 0.6])
def test_full_batch_training_hovers_inside_the_band_of_the_edge(rate: float) -> None:
    """Once the ratio has met 1 it stays in EDGE: gradient descent on a small network with squared error."""
    torch.manual_seed(0)
    x = torch.randn(60, 6, dtype=torch.float64)
    y = torch.sin(2.0 * x @ torch.randn(6, 2, dtype=torch.float64))
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    weights, start = list(model.parameters()), torch.randn(146, dtype=torch.float64)
    ratios = []
    for step in range(800):
        loss = (model(x) - y).square().mean()
        gradients = torch.autograd.grad(loss, weights, create_graph=step % 25 == 0)
        if step % 25 == 0:
            ratios.append(rate / 2.0 * largest(gradients, weights, start))
        with torch.no_grad():
            torch._foreach_add_(weights, [gradient.detach() for gradient in gradients], alpha=-rate)
    met = next(index for index, ratio in enumerate(ratios) if ratio > 0.95)
    assert met < 24
    assert all(EDGE[0] < ratio < EDGE[1] for ratio in ratios[met:])


def largest(gradients: Sequence[torch.Tensor], weights: list[nn.Parameter], start: torch.Tensor) -> float:
    """The Hessian's largest eigenvalue by Lanczos."""
    sizes = [weight.numel() for weight in weights]

    def product(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, sizes)
        slope = sum((g * p.view_as(g)).sum() for g, p in zip(gradients, parts, strict=True))
        found = torch.autograd.grad(slope, weights, retain_graph=True)
        return torch.cat([part.reshape(-1) for part in found])

    return largest_eigenvalues(product, start).eigenvalues[0].value


def test_thirty_eight_over_the_rate_is_what_adam_bears() -> None:
    assert adam_threshold(1.0, 0.9) == pytest.approx(38.0)


@pytest.mark.parametrize(
    ("kind", "ratio", "expected"),
    [
        ("descent", -1.0, "lazy"),
        ("descent", 0.99, "lazy"),
        ("descent", 1.0, "catapult"),
        ("descent", 2.0, "architecture-dependent"),
        ("descent", 1e9, "architecture-dependent"),
        ("momentum", 0.29, "lazy"),
        ("momentum", 0.5, "architecture-dependent"),
        ("momentum", 1e9, "architecture-dependent"),
        ("nesterov", 0.49, "lazy"),
        ("nesterov", 0.8, "architecture-dependent"),
    ],
)
def test_the_bands_of_the_regimes(kind: str, ratio: float, expected: str) -> None:
    assert regime(INITIAL_BANDS[kind, "mse"], ratio) == expected


def test_no_band_was_measured_beyond_the_edge_or_for_another_loss() -> None:
    for kind in ("descent", "adaptive"):
        assert regime(TRAINED_BANDS[kind, "mse"], 1.0) == "edge-of-stability"
        assert regime(TRAINED_BANDS[kind, "mse"], 1.6) is None
    assert {loss for _, loss in TRAINED_BANDS} == {"mse"}


def test_the_first_bands_are_those_of_the_study() -> None:
    """Up to there every run survived under every setting of that kind, and there is none beyond the threshold."""
    with (Path(__file__).parents[2] / "benchmarks" / "results" / "regime_study.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {"descent": "descent", "momentum .5": "momentum", "momentum .9": "momentum", "nesterov .9": "nesterov"}
    losses = {"squared": "mse", "entropy": "cross-entropy"}
    lost: dict[tuple[str, str], float] = dict.fromkeys(INITIAL_BANDS, math.inf)
    for row in rows:
        key = kinds.get(row["optimizer"]), losses[row["loss"]]
        for column, cell in row.items():
            courses = cell.split()[:8] if column[0].isdigit() else []
            if key[0] is not None and any(course[0] in "ux" for course in courses):
                lost[key] = min(lost[key], float(column))
    ratios = sorted({float(column) for column in rows[0] if column[0].isdigit()})
    for key, first in lost.items():
        safe = min(max(ratio for ratio in ratios if ratio < first), 1.0)
        assert INITIAL_BANDS[key][0] == (safe, "lazy")


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_diverges_below_its_threshold(momentum: float) -> None:
    """A two-layer tanh network with large first weights at .8 of the threshold, on which no regime may be built."""

    def ends(seed: int) -> float:
        torch.manual_seed(seed)
        x, y = torch.randn(32, 8, dtype=torch.float64), torch.randn(32, 1, dtype=torch.float64)
        model = nn.Sequential(nn.Linear(8, 64, bias=False), nn.Tanh(), nn.Linear(64, 1, bias=False)).double()
        for layer in (model[0], model[2]):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        weights = list(model.parameters())
        gradients = torch.autograd.grad((model(x) - y).square().mean(), weights, create_graph=True)
        curvature = largest(gradients, weights, torch.zeros(8 * 64 + 64, dtype=torch.float64))
        optimizer = torch.optim.SGD(weights, lr=momentum_threshold(curvature / 0.95, momentum), momentum=momentum)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
        return max(losses[1:]) / losses[0]

    assert max(ends(seed) for seed in range(4)) > 1.1
