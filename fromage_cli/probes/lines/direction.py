"""A direction: how the weights move, dW_l = eta * coefficient_l * source_l, all tensors together.

Scaled so that eta is the largest relative step of a layer, max_l ||dW_l|| / ||W_l||. Layers whose weights are nearly
zero do not count.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from fromage_cli.checkpoints.names.naming import chosen_names
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.probes.lines.random_direction import RandomTensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
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


class Still(StrEnum):
    """Why a tensor does not move."""

    ZERO_WEIGHTS = "zero weights"
    ZERO_GRADIENT = "zero gradient"
    ZERO_STEP = "zero step"
    NO_GRADIENT = "receives no gradient"
    FROZEN = "frozen"
    EXCLUDED = "excluded"
    SAME = "same in both checkpoints"


@dataclass(frozen=True)
class Skipped:
    """A tensor that stands still, and why."""

    name: str
    reason: str
    """One of `Still`, or that the optimizer does not cover it."""


@dataclass(frozen=True)
class Direction:
    """A straight line through the weights, parametrised by eta."""

    name: str
    step_scale: float
    """The learning rate of a plain update is eta times this; 1 for relative updates."""
    moves: tuple[Move, ...]
    skipped: tuple[Skipped, ...]
    source: Callable[[TrainableTensor], Tensor]
    certifies: bool = True
    """Whether the step is an update, so that Lemma 1 may promise descent; a random direction promises nothing."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was made."""
    along_gradients: bool = False
    """Whether the source of every tensor is its base gradient."""
    drawn: RandomTensors | None = None
    """What the source is drawn from, where it is not held in memory: it can be added without room for all of it."""
    without_size: tuple[str, ...] = ()
    """Layers that move and are nearly zero beside their step, which is therefore no part of eta."""

    @property
    def slope(self) -> float:
        """How fast the loss changes along it at the start, as its gradient says: <g, d> = dL / d eta."""
        return -math.fsum(move.gradient_norm * move.step_norm * move.cosine for move in self.moves)

    @torch.no_grad()
    def write(self, origin: Mapping[str, Tensor], eta: float) -> None:
        """Sets every tensor that moves to W + eta * d, computed from its unmoved copy."""
        for move in self.moves:
            tensor, factor = move.tensor, eta * move.coefficient
            if self.drawn is not None:
                self.drawn.add(tensor.name, origin[tensor.name], factor, tensor.parameter)
            else:
                torch.add(origin[tensor.name], self.source(tensor), alpha=factor, out=tensor.parameter)

    def vector(self) -> dict[str, Tensor]:
        """The direction d itself, d dW / d eta, by tensor name."""
        return {move.tensor.name: move.coefficient * self.source(move.tensor) for move in self.moves}


def moving_tensors(
    problem: Problem, tensors: str, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[TrainableTensor], list[Skipped]]:
    """Chooses the tensors that a direction may move, and gives the reasons why the others stand still.

    `tensors`: `matrices` (two or more dimensions) or `all`. Raises MismatchError when nothing is left.
    """
    problem.evaluations.doing = "the gradient at the checkpoint"
    names = chosen_names((tensor.name for tensor in problem.receiving), include, exclude)
    kept = [t for t in problem.receiving if t.name in names and (tensors == "all" or t.is_layer)]
    skipped = [Skipped(name, Still.FROZEN) for name in problem.frozen]
    skipped += [Skipped(name, Still.NO_GRADIENT) for name in problem.unused]
    skipped += [Skipped(t.name, Still.EXCLUDED) for t in problem.receiving if t.name not in names]
    if not kept:
        raise MismatchError(
            (
                f"No tensor is left to move: {len(problem.receiving)} receive a gradient, {len(names)} of "
                "them pass --include and --exclude, but those have fewer than two dimensions."
            )
            if names
            else f"No tensor matches --include and --exclude; {len(problem.receiving)} receive a gradient.",
            "Give --tensors all, or globs that match names such as " + problem.receiving[0].name + ".",
        )
    return kept, skipped


def measured_move(problem: Problem, tensor: TrainableTensor, coefficient: float, source: Tensor) -> Move:
    """Measures the move dW = coefficient * source of one tensor: its norms and its cosine to descent.

    Raises NumericalError for a source that is not finite.
    """
    gradient = problem.base.gradients[tensor.name]
    gradient_norm, source_norm = norm(gradient), norm(source)
    if not math.isfinite(source_norm):
        raise NumericalError(
            f"The step of {tensor.name!r} is not finite.",
            "Take another checkpoint: this one's optimizer state may hold NaN, or a negative second moment.",
        )
    cosine = 0.0
    if gradient_norm > 0.0 and source_norm > 0.0:
        cosine = -math.copysign(1.0, coefficient) * inner_product(gradient, source) / (gradient_norm * source_norm)
        cosine = max(-1.0, min(1.0, cosine))
    return Move(tensor, coefficient, norm(tensor.parameter), gradient_norm, abs(coefficient) * source_norm, cosine)
