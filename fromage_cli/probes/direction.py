"""Directions: how the weights move, dW_l = eta * coefficient_l * source_l, all tensors together.

Scaled so that eta is the largest relative step max_l ||dW_l|| / ||W_l|| (THEORY: every layer's, along `fromage`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.errors import MismatchError
from fromage_cli.problem.layers import TrainableTensor, chosen
from fromage_cli.problem.problem import Problem
from fromage_cli.theory.accumulation import inner_product, norm


@dataclass(frozen=True)
class Move:
    """One tensor that moves, and how its step lies to its weights and its gradient."""

    tensor: TrainableTensor
    coefficient: float
    """What the source is multiplied by, per unit of eta."""
    weight_norm: float
    """||W_l||."""
    gradient_norm: float
    """||g_l||."""
    step_norm: float
    """||dW_l|| at eta = 1."""
    cosine: float
    """Between dW_l and -g_l; 0 where the gradient vanishes."""

    @property
    def relative_step(self) -> float | None:
        """||dW_l|| / ||W_l|| at eta = 1; None for weights that are all zero."""
        return self.step_norm / self.weight_norm if self.weight_norm > 0.0 else None


@dataclass(frozen=True)
class Skipped:
    """A tensor that stands still, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Direction:
    """A straight line through the weights, parametrised by eta."""

    name: str
    step_scale: float
    """The learning rate of a plain update is eta times this; 1 for relative updates."""
    moves: tuple[Move, ...]
    skipped: tuple[Skipped, ...]
    source: Callable[[TrainableTensor], Tensor]

    def write(self, origin: Mapping[str, Tensor], eta: float) -> None:
        """Sets every tensor that moves to W + eta * d, computed from its unmoved copy."""
        for move in self.moves:
            weight = move.tensor.parameter.data
            torch.add(origin[move.tensor.name], self.source(move.tensor), alpha=eta * move.coefficient, out=weight)

    def vector(self) -> dict[str, Tensor]:
        """The direction d itself, d dW / d eta, by tensor name."""
        return {move.tensor.name: move.coefficient * self.source(move.tensor) for move in self.moves}


def moving_tensors(
    problem: Problem, tensors: str, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[TrainableTensor], list[Skipped]]:
    """The tensors a direction may move, and the reasons why the others stand still.

    `tensors`: `matrices` (two or more dimensions) or `all`. Raises MismatchError when nothing is left.
    """
    names = chosen([tensor.name for tensor in problem.receiving], include, exclude)
    kept = [t for t in problem.receiving if t.name in names and (tensors == "all" or t.is_layer)]
    skipped = [Skipped(name, "frozen") for name in problem.frozen]
    skipped += [Skipped(name, "receives no gradient") for name in problem.unused]
    skipped += [Skipped(t.name, "excluded") for t in problem.receiving if t.name not in names]
    if not kept:
        raise MismatchError(
            f"No tensor is left to move: {len(problem.receiving)} receive a gradient, {len(names)} pass --include "
            f"and --exclude, none of those has two or more dimensions."
            if names
            else f"No tensor matches --include and --exclude; {len(problem.receiving)} receive a gradient.",
            "Use --tensors all, or globs that match names such as " + problem.receiving[0].name + ".",
        )
    return kept, skipped


def fromage_direction(problem: Problem, tensors: Sequence[TrainableTensor]) -> Direction:
    """The Fromage step without its prefactor, d_l = -g_l ||W_l|| / ||g_l||: every layer's relative step is eta.

    Tensors whose weights or gradient are zero do not move.
    """
    gradients = problem.base.gradients
    moves, skipped = [], []
    for tensor in tensors:
        weight_norm, gradient_norm = norm(tensor.parameter), norm(gradients[tensor.name])
        if weight_norm == 0.0 or gradient_norm == 0.0:
            skipped.append(Skipped(tensor.name, "zero weights" if weight_norm == 0.0 else "zero gradient"))
            continue
        moves.append(Move(tensor, -weight_norm / gradient_norm, weight_norm, gradient_norm, weight_norm, 1.0))
    return Direction("fromage", 1.0, tuple(moves), tuple(skipped), lambda tensor: gradients[tensor.name])


def cosine_to_descent(gradient: Tensor, step: Tensor, gradient_norm: float, step_norm: float) -> float:
    """The cosine between a step and the negative gradient, clamped to [-1, 1]; 0 where either vanishes."""
    if gradient_norm == 0.0 or step_norm == 0.0:
        return 0.0
    return max(-1.0, min(1.0, -inner_product(gradient, step) / (gradient_norm * step_norm)))
