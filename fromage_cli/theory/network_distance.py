"""How far apart two networks are: angles, implied steps, and Theorem 1 for two perceptrons.

Source: Bernstein et al., NeurIPS 2020, Theorem 1, for bias-free perceptrons whose layers do not narrow
(n_l >= n_{l-1}) and whose nonlinearity, with alpha |x| <= |phi(x)| and slopes in [alpha, beta], follows every layer.
"""

import math
from collections.abc import Sequence

LARGE = 700.0
"""Exponents from which on e^x - 1 is e^x, just before it overflows."""


def angle_between(chord: float, cochord: float) -> float:
    """The angle between two vectors from ‖u^ − v^‖ and ‖u^ + v^‖, radians; exact at both ends, unlike arccos."""
    return 2.0 * math.atan2(chord, cochord)


def straight_step(relative_distance: float, steps: int) -> float:
    """The least relative step that gets so far in so many steps, (1 + delta)^(1/t) - 1: all of them in one direction.

    By the triangle inequality no walk with smaller steps arrives.
    """
    return math.expm1(math.log1p(relative_distance) / steps)


def wandering_step(angle: float, steps: int) -> float | None:
    """The relative step eta that turns by so much when every step is orthogonal to the weights and to the other steps.

    cos = (1 + eta^2)^(-t/2), whether the norm then grows (LARS) or is kept (Fromage). None from a right angle on.
    """
    if math.cos(angle) <= 0.0 or angle > math.pi / 2.0:
        return None
    return math.sqrt(math.expm1(math.log1p(math.tan(angle) ** 2) / steps))


def log10_function_bound(relative_steps: Sequence[float], condition: float, alpha: float, beta: float) -> float:
    """log10 of (beta kappa^2 / alpha)^L [prod_l (1 + delta_l) - 1], which bounds ||f~(x) - f(x)|| / ||f(x)||.

    `condition`: kappa, the largest condition number over all W_l, W~_l and their differences.
    -inf when no layer moved; inf for a condition number without bound.
    """
    exponent = math.fsum(math.log1p(step) for step in relative_steps)
    if exponent == 0.0:
        return -math.inf
    factor = math.log10(beta / alpha) + 2.0 * math.log10(condition)
    grown = math.log10(math.expm1(exponent)) if exponent < LARGE else exponent / math.log(10.0)
    return len(relative_steps) * factor + grown
