"""Theorem 1: how far apart two perceptrons, and their layer-to-output Jacobians, can be.

Source: Bernstein et al., NeurIPS 2020, Theorem 1, for bias-free perceptrons whose layers do not narrow
(n_l >= n_{l-1}) and whose nonlinearity, with alpha |x| <= |phi(x)| and slopes in [alpha, beta], follows every layer.
"""

import math
from collections.abc import Sequence


def log10_function_bound(relative_steps: Sequence[float], condition: float, alpha: float, beta: float) -> float:
    """log10 of (beta kappa^2 / alpha)^L [prod_l (1 + delta_l) - 1], which bounds ||f~(x) - f(x)|| / ||f(x)||.

    `condition`: kappa, the largest condition number over all W_l, W~_l and their differences.
    -inf when no layer moved; inf for a condition number without bound.
    """
    product = math.expm1(math.fsum(math.log1p(step) for step in relative_steps))
    if product == 0.0:
        return -math.inf
    return len(relative_steps) * math.log10(beta * condition**2 / alpha) + math.log10(product)


def log10_jacobian_bound(
    relative_steps: Sequence[float], layer: int, condition: float, alpha: float, beta: float
) -> float:
    """log10 of (beta kappa^2 / alpha)^(L-l) [prod_{k>l} (beta/alpha)(1 + delta_k) - 1] for layer l, counted from 1.

    It bounds the relative change of the Jacobian of the output with respect to the output of layer l.
    """
    above = relative_steps[layer:]
    product = math.expm1(math.fsum(math.log(beta / alpha) + math.log1p(step) for step in above))
    if product == 0.0:
        return -math.inf
    return len(above) * math.log10(beta * condition**2 / alpha) + math.log10(product)
