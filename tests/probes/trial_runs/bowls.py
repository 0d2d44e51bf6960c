"""Quadratic losses, along which plain descent has a closed form."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


class Bowl(nn.Module):
    """Weights times fixed features: with targets of zero the squared error is a quadratic of known curvature."""

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def bowl(
    make_problem: Maker, start: Sequence[float], curvatures: Sequence[float], rows: int = 80, **settings: object
) -> Problem:
    """loss = sum_i h_i w_i^2 / (2 n) for every row alike, so that no order of rows and no minibatch matters."""
    features = torch.tensor(curvatures, dtype=torch.float64).div(2.0).sqrt().expand(rows, -1)
    data = {"x": features.contiguous(), "y": torch.zeros(rows, len(start), dtype=torch.float64)}
    return make_problem(Bowl(start), data, loss="mse", **settings)


def descended(rates: Sequence[float], start: Sequence[float], curvatures: Sequence[float]) -> float:
    """The loss after a step of plain descent at each rate: a coordinate shrinks by 1 - rate h / n in each."""
    count = len(start)
    return math.fsum(
        h * (w * math.prod(1.0 - rate * h / count for rate in rates)) ** 2 / (2.0 * count)
        for w, h in zip(start, curvatures, strict=True)
    )
