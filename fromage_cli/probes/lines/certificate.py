"""Lemma 1 as a certificate: as long as the gradients change by less than it allows, a step lowers the loss.

The loss falls by at least the sum over tensors of ||g_l|| ||dW_l|| (cos theta_l - b_l). The breakdown is
b_l = ||g_l(W + dW) - g_l|| / ||g_l||. Descent is certain while every group of tensors has a positive part in that sum.
Here every layer is a group. All tensors that are no layer, or have no cosine of their own to rely on, are one group
together. Source: Bernstein et al., NeurIPS 2020, Lemma 1.
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
    """Tensors that are judged together."""

    moves: tuple[Move, ...]
    descent: float
    """Sum of ||g_l|| ||d_l|| cos theta_l: how fast they lower the loss at the start."""

    def excess(self, changes: Mapping[str, float]) -> float:
        """How much of the descent the gradients' changes can undo, as a share; for one tensor b_l / cos theta_l."""
        return math.fsum(_lost(move, changes) for move in self.moves) / self.descent


@dataclass(frozen=True)
class Certificate:
    """A direction, and the cosine on which the certificate relies in each tensor."""

    direction: Direction
    levels: Mapping[str, float]
    """cos theta_l by tensor name."""
    noise: frozenset[str] = field(default_factory=frozenset)
    """Tensors whose gradient is zero but for rounding: they are not judged by themselves."""
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
        return groups if alone and all(group.descent > 0.0 for group in groups) else everything

    def _group(self, moves: tuple[Move, ...]) -> Group:
        """The tensors as one group, with the descent that their cosines give."""
        parts = (move.gradient_norm * move.step_norm * self.levels[move.tensor.name] for move in moves)
        return Group(moves, math.fsum(parts))

    def _stands_alone(self, move: Move) -> bool:
        """Whether it is a layer that can be judged by itself."""
        name = move.tensor.name
        return move.tensor.is_layer and name not in self.noise and self.levels[name] > 0.0 and move.gradient_norm > 0.0

    @property
    def criterion(self) -> Criterion:
        """Whether each layer ends the certificate, or only the sum over all tensors."""
        whole = len(self.groups) == 1 and len(self.groups[0].moves) > 1
        return "sum" if self.together or whole else "layers"

    @property
    def possible(self) -> bool:
        """Whether there is any descent to rely on."""
        return all(group.descent > 0.0 for group in self.groups)

    def excess(self, changes: Mapping[str, float]) -> float:
        """The largest share of its descent that a group can lose; below 1 the step is certain to descend.

        `changes`: ||g_l(W + dW) - g_l|| by tensor name.
        """
        return max(group.excess(changes) for group in self.groups)

    def limiting(self, changes: Mapping[str, float]) -> str:
        """The layer that limits, or the tensor that weighs most in the group that does."""
        worst = max(self.groups, key=lambda group: group.excess(changes))
        return max(worst.moves, key=lambda move: _lost(move, changes)).tensor.name


def _lost(move: Move, changes: Mapping[str, float]) -> float:
    """||dW_l|| times the change of its gradient; infinite where that is not a number."""
    change = changes[move.tensor.name]
    return move.step_norm * (math.inf if math.isnan(change) else change)
