"""Whether a loss changes along a line as its gradient says, to first order.

With the gradient g of L, L(W + eta d) - L(W) is eta <g, d>.
It differs from that by at most eta sum_l ||d_l|| max_t ||g_l(W + t d) - g_l(W)||.
Gradient reversal, straight-through estimators and hand-written backward passes break this. So does a loss that jumps.
Source: Lemma 1 of Bernstein et al., NeurIPS 2020.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

RESOLVED = 4.0
"""Rounding errors of the loss that its change, or the expected one, must come to before it is judged."""
CURVATURE = 2.0
"""How many times what the sampled gradients account for: they may have changed more between the points."""
SLACK = 0.1
"""Share of the expected change below which nothing is said: gradients in bfloat16 are this far off."""
APART = 1.5
"""Factor from the smallest judged point to the second."""


@dataclass(frozen=True)
class SlopeCheck:
    """The slope of the loss along a line by its gradient and by its values, and whether both agree."""

    expected: float
    """<g, d>."""
    measured: float | None
    """The same from the two smallest points that rounding lets one judge; None where there is none."""
    eta: float | None
    """The smallest of them."""
    contradicted: bool
    """Whether the loss changed by more or less than gradient, curvature and rounding allow, at both points."""


def check_slope(
    slope: float,
    start: float,
    etas: Sequence[float],
    losses: Sequence[float],
    curvatures: Sequence[float],
    *,
    rounding: float,
) -> SlopeCheck:
    """Holds the losses of the smallest steps against the slope that the gradient gives.

    `slope`: <g, d> = -sum_l ||g_l|| ||d_l|| cos theta_l; `start`: the loss at eta = 0; `etas`: rising; `curvatures`:
    eta sum_l ||d_l|| ||g_l(eta) - g_l(0)|| at each; `rounding`: of the loss. One judged point alone is held against it
    too, and the slope is then not extrapolated.
    """
    judged = [
        (eta, loss - start, curvature)
        for eta, loss, curvature in zip(etas, losses, curvatures, strict=True)
        if math.isfinite(loss) and max(abs(eta * slope), abs(loss - start)) > RESOLVED * rounding
    ]
    points = judged[:1] + [point for point in judged if point[0] >= APART * judged[0][0]][:1]
    if not points:
        return SlopeCheck(slope, None, None, False)
    misses = [
        (change - eta * slope) / (CURVATURE * curvature + rounding + SLACK * abs(eta * slope))
        for eta, change, curvature in points
    ]
    contradicted = min(misses) > 1.0 or max(misses) < -1.0
    quotients = [change / eta for eta, change, _ in points]
    bend = (quotients[0] - quotients[-1]) * points[0][0] / (points[-1][0] - points[0][0]) if len(points) > 1 else 0.0
    return SlopeCheck(slope, quotients[0] + bend, points[0][0], contradicted)
