"""How far one draw of a network's random numbers is from another: its loss, its gradient, the rate that raises it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from fromage_cli.errors import NumericalError
from fromage_cli.probes.cost import FORWARD
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.probes.lines.direction import Direction
from fromage_cli.probes.lines.ray import gradient_changes
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import inner_product, squared_norm

FURTHER = 4
"""Draws beside the problem's own: their spread is known to a third."""
CRITICAL = FURTHER * (1.0 + 6.0 * FORWARD)
"""What the critical rates of one step under other draws cost, in gradients, as told beforehand."""
TRUSTED = 2
"""Draws beside the problem's own under which `breakdown` holds its step against Lemma 1."""
PRECISION = 1.2
"""The critical rate of each is known up to this factor; between draws it differs by more."""


@dataclass(frozen=True)
class DrawSpread:
    """Loss and gradient over draws of what is random, at fixed weights and rows."""

    seeds: int
    """How many draws, the problem's own among them."""
    loss_mean: float
    loss_spread: float
    """Standard deviation over draws."""
    gradient_spread: float
    """sqrt(sum ||g_s - mean||^2 / (n - 1)) / ||mean||."""


def measure_draw_spread(problem: Problem) -> DrawSpread:
    """Measures the spread over the problem's own draw and `FURTHER` others; costs as many gradients."""
    base = problem.base
    sums = {name: gradient.clone() for name, gradient in base.gradients.items()}
    squares, losses = [squared_norm(gradient) for gradient in sums.values()], [base.loss]

    def visit(tensor: TrainableTensor, gradient: Tensor) -> None:
        squares.append(squared_norm(gradient))
        if tensor.name in sums:
            sums[tensor.name].add_(gradient)
        else:  # that draw reaches a tensor which the problem's own does not
            sums[tensor.name] = gradient.clone()

    for further in range(1, FURTHER + 1):
        losses.append(problem.drawn(further).visit_gradient(visit))
    count = len(losses)
    whole = math.fsum(squared_norm(total) for total in sums.values())  # ||sum g||^2
    spread = max(math.fsum(squares) - whole / count, 0.0) / (count - 1)
    gradient_spread = math.sqrt(spread / whole) * count if whole > 0.0 else math.inf
    return DrawSpread(count, fmean(losses), stdev(losses), gradient_spread)


def gradients_of_draws(problem: Problem) -> float:
    """What the spread over draws costs beside a measurement, in gradients, with the pass that shows it; 0 without any.

    Costs a gradient of its own where random numbers are drawn and the base is not known.
    """
    if not problem.conditions.drew:
        return 0.0
    return FORWARD + (FURTHER if problem.draws_noise else 0)


def critical_over_draws(
    problem: Problem,
    step: Mapping[str, Tensor],
    start: float,
    contraction: Callable[[float], float] = lambda rate: 1.0,
) -> tuple[float | None, ...]:
    """The critical rate of one fixed step under other draws than its own, as `critical_rate` finds it.

    None where the step goes uphill under that draw, or no rate was found. Costs a gradient and about six forward
    passes for each of `FURTHER` draws.
    """
    found: list[float | None] = []
    for further in range(1, FURTHER + 1):
        try:
            found.append(critical_rate(problem.drawn(further), step, start, contraction, precision=PRECISION))
        except NumericalError:
            found.append(None)
    return tuple(found)


def trust_of_draw(problem: Problem, direction: Direction, eta: float) -> float:
    """Up to which eta Lemma 1, all tensors summed, gives descent along a step that another draw gave.

    Each gradient's change is measured at `eta` and taken to grow in proportion to the step:
    eta* = -eta <g, d> / sum ||g_l(W + eta d) - g_l(W)|| ||d_l||, 0 where the step goes uphill under that draw.
    Costs two gradients and holds one of them. The weights are afterwards as before.
    """
    gradients = {move.tensor.name: torch.zeros_like(move.tensor.parameter) for move in direction.moves}

    def keep(tensor: TrainableTensor, gradient: Tensor) -> None:
        if tensor.name in gradients:
            gradients[tensor.name].copy_(gradient)

    problem.visit_gradient(keep)
    slope = math.fsum(
        move.coefficient * inner_product(gradients[move.tensor.name], direction.source(move.tensor))
        for move in direction.moves
    )
    with problem.displaced([move.tensor for move in direction.moves]) as origin:
        direction.write(origin, eta)
        changes = gradient_changes(problem, direction, gradients)[1]
    rise = math.fsum(changes[move.tensor.name] * move.step_norm for move in direction.moves)
    return 0.0 if slope >= 0.0 else -eta * slope / rise if rise > 0.0 else math.inf
