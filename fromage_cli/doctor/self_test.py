"""A breakdown whose answer is known: a chain of linear layers of which every step takes the same share.

Each layer is a multiple of the matrix of ones, and so is its gradient. A Fromage step by η then scales all layers by
1 - η: the loss by (1 - η)^L, each gradient by (1 - η)^(L - 1).
"""

import math
import time

import torch
from torch import Tensor, nn

from fromage_cli.diagnostics.breakdown.direction_option import make_direction
from fromage_cli.diagnostics.breakdown.measure import measure
from fromage_cli.doctor.result import SelfTest
from fromage_cli.missing import Missing, found_of, known
from fromage_cli.optimizers.rule import FROMAGE
from fromage_cli.optimizers.settings import Given
from fromage_cli.probes.lines.direction import moving_tensors
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss

LAYERS, WIDTH, ROWS = 6, 8, 4
ETAS = (1e-3, 1e-2, 0.1, 0.5)
ALLOWED = 1e-10
"""Largest gap in float64, where rounding makes about 1e-15."""


class Chain(nn.Module):
    """Linear layers whose weights are all the same, with a gain a little different in each layer."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64) for _ in range(LAYERS)]
        for index, layer in enumerate(layers):
            nn.init.constant_(layer.weight, (1.0 + index / 10.0) / WIDTH)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the outputs, which is the loss."""
        for layer in self.layers:
            x = layer(x)
        return x.mean()


def self_test(device: torch.device, budget: Budget) -> SelfTest:
    """Measures the chain as `breakdown` does, and compares with the closed form.

    Raises the error of a measurement that ended early.
    """
    started = time.perf_counter()
    chain = Chain().to(device)
    batch = as_batch({"x": torch.ones(ROWS, WIDTH, dtype=torch.float64, device=device)}, "the self-test")
    problem = Problem(chain, resolve_loss("output", chain, batch), batch, budget=budget)
    moving, _ = moving_tensors(problem, "matrices", (), ())
    line = make_direction(FROMAGE.name, problem, moving, None, Given())
    result, error = found_of(measure(problem, line, ETAS, last=True))
    if error is not None:
        raise error
    start = math.prod(1.0 + index / 10.0 for index in range(LAYERS))
    losses = [abs(loss / (start * (1.0 - eta) ** LAYERS) - 1.0) for eta, loss in zip(ETAS, result.losses, strict=True)]
    breakdowns = [
        abs(_number(found) - (1.0 - (1.0 - eta) ** (LAYERS - 1)))
        for layer in result.layers
        for eta, found in zip(ETAS, layer.breakdown, strict=True)
    ]
    slope = 1.0 / _number(result.linear_trust_eta)
    return SelfTest(
        device=str(device),
        layers=len(result.layers),
        loss_gap=_largest(losses),
        breakdown_gap=_largest(breakdowns),
        curvature_gap=abs(slope / (LAYERS - 1) - 1.0),
        limit=ALLOWED,
        seconds=time.perf_counter() - started,
    )


def _number(value: float | Missing) -> float:
    found = known(value)
    return math.nan if found is None else found


def _largest(gaps: list[float]) -> float:
    """The largest gap; nan where one is nan, or where there is none."""
    return max(gaps, default=math.nan) if not any(map(math.isnan, gaps)) else math.nan
