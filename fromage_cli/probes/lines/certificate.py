"""When a step is certain to descend: what Lemma 1 holds the gradients' changes against.

The loss falls by at least the sum over the tensors of ||g_l|| ||dW_l|| (cos theta_l - b_l), with the breakdown
b_l = ||g_l(W + dW) - g_l|| / ||g_l||. Descent is certain while every group of tensors has a positive part in that sum.
Here every layer is a group, and so are together all tensors that are no layer or have no cosine of their own to rely
on. Source: Bernstein et al., NeurIPS 2020, Lemma 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from fromage_cli.probes.lines.direction import Direction, Move

Criterion = Literal["layers", "sum"]


@dataclass(frozen=True)
class Group:
    """Tensors that are taken together."""

    moves: tuple[Move, ...]
    counted_on: float
    """Sum of ||g_l|| ||d_l|| cos theta_l: how fast they lower the loss."""

    def excess(self, changes: Mapping[str, float]) -> float:
        """What the gradients' changes may take away, over what is counted on; of one tensor b_l / cos theta_l."""
        return math.fsum(_lost(move, changes) for move in self.moves) / self.counted_on


@dataclass(frozen=True)
class Certificate:
    """One direction with what a certificate may count on in each tensor."""

    direction: Direction
    levels: Mapping[str, float]
    """cos theta_l by tensor name."""
    noise: frozenset[str] = field(default_factory=frozenset)
    """Tensors whose gradient is zero but for rounding: they have no say of their own."""
    together: bool = False
    """Whether only the sum over all tensors counts."""

    @cached_property
    def uncertain(self) -> tuple[str, ...]:
        """Layers with a gradient that have no cosine of their own to rely on."""
        return tuple(
            move.tensor.name
            for move in self.direction.moves
            if move.tensor.is_layer and move.tensor.name not in self.noise and self.levels[move.tensor.name] <= 0.0
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every layer that stands alone, and all other tensors; all in one where these have nothing to rely on."""
        everything = (self._group(self.direction.moves),)
        if self.together:
            return everything
        alone = [(move,) for move in self.direction.moves if self._stands_alone(move)]
        others = tuple(move for move in self.direction.moves if not self._stands_alone(move))
        groups = tuple(self._group(moves) for moves in (*alone, *([others] if others else [])))
        return groups if alone and all(group.counted_on > 0.0 for group in groups) else everything

    def _group(self, moves: tuple[Move, ...]) -> Group:
        parts = (move.gradient_norm * move.step_norm * self.levels[move.tensor.name] for move in moves)
        return Group(moves, math.fsum(parts))

    def _stands_alone(self, move: Move) -> bool:
        name = move.tensor.name
        return move.tensor.is_layer and name not in self.noise and self.levels[name] > 0.0 and move.gradient_norm > 0.0

    @property
    def criterion(self) -> Criterion:
        """By what the end of certainty is told."""
        whole = len(self.groups) == 1 and len(self.groups[0].moves) > 1
        return "sum" if self.together or whole else "layers"

    @property
    def possible(self) -> bool:
        """Whether there is any descent to count on."""
        return all(group.counted_on > 0.0 for group in self.groups)

    def excess(self, changes: Mapping[str, float]) -> float:
        """What the criterion makes of ||g_l(W + dW) - g_l|| by tensor name: descent is certain below 1."""
        return max(group.excess(changes) for group in self.groups)

    def limiting(self, changes: Mapping[str, float]) -> str:
        """The layer that limits, or the tensor that weighs most in the group that does."""
        worst = max(self.groups, key=lambda group: group.excess(changes))
        return max(worst.moves, key=lambda move: _lost(move, changes)).tensor.name


def _lost(move: Move, changes: Mapping[str, float]) -> float:
    """||dW_l|| times the change of its gradient; infinite where that is not a number."""
    change = changes[move.tensor.name]
    return move.step_norm * (math.inf if math.isnan(change) else change)
