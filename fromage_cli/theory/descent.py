"""Lemma 1: how much a step is certain to lower the loss.

Source: Bernstein et al., NeurIPS 2020, Lemma 1: for any grouping of the parameters that move,

    L(W + dW) - L(W) <= -sum_l ||g_l|| ||dW_l|| [cos_l - max_t b_l(t)].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GroupStep:
    """What one group of parameters contributes to the bound, at one step size."""

    gradient_norm: float
    """||g_l|| at the start."""
    step_norm: float
    """||dW_l||."""
    cosine: float
    """Between g_l and -dW_l."""
    breakdown: float
    """max over the path of ||g_l(W + t dW) - g_l|| / ||g_l||; absolute (not divided) where ||g_l|| = 0."""

    @property
    def loss_change(self) -> float:
        """-||g_l|| ||dW_l|| (cos_l - breakdown), the group's term of the bound."""
        if self.step_norm == 0.0:
            return 0.0
        if self.gradient_norm == 0.0:
            return self.step_norm * self.breakdown
        if math.isnan(self.breakdown):
            return math.inf
        return -self.gradient_norm * self.step_norm * (self.cosine - self.breakdown)


def loss_change_bound(steps: Sequence[GroupStep]) -> float:
    """The largest change of the loss that Lemma 1 allows; negative means that descent is certain."""
    return math.fsum(step.loss_change for step in steps)
