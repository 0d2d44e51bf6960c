"""The lemmas and the theorem of deep relative trust, and how far apart two networks are.

Source: Bernstein, Vahdat, Yue, Liu, *On the distance between two neural networks and the stability of
learning*, NeurIPS 2020: Lemma 1, the model of Section 4 with Lemma 2, and Theorem 1.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LARGEST_EXPONENT = math.log(sys.float_info.max)


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
    """The largest change of the loss that Lemma 1 allows; negative means that descent is certain.

    For any grouping of the parameters that move:

        L(W + dW) - L(W) <= -sum_l ||g_l|| ||dW_l|| [cos_l - max_t b_l(t)].
    """
    return math.fsum(step.loss_change for step in steps)


def predicted_breakdown(relative_steps: Iterable[float]) -> float:
    """The gradient breakdown that deep relative trust predicts, prod_k (1 + delta_k) - 1.

    `relative_steps`: delta_k = ||dW_k|| / ||W_k|| of every layer that moves; no unit. inf where it overflows.
    """
    exponent = math.fsum(math.log1p(step) for step in relative_steps)
    return math.expm1(exponent) if exponent < _LARGEST_EXPONENT else math.inf


def spectral_step(relative_step: float, stable_rank_weight: float, stable_rank_step: float) -> float:
    """The relative step in the spectral norm, delta * sqrt(srank(W) / srank(dW)).

    With srank(A) = ||A||_F^2 / ||A||_2^2 this equals ||dW||_2 / ||W||_2 exactly.
    """
    return relative_step * math.sqrt(stable_rank_weight / stable_rank_step)


def lemma2_rate(cosine: float, depth: float) -> float:
    """The relative step below which the loss falls if deep relative trust holds, (1 + cos)^(1/L) - 1 (Lemma 2).

    `cosine`: between the gradient and the negative step, 0 where it is not positive; `depth`: L >= 1.
    """
    return math.expm1(math.log1p(max(cosine, 0.0)) / depth)


def implied_depth(cosine: float, eta: float) -> float:
    """The depth for which Lemma 2 would have given the relative step `eta`, ln(1 + cos) / ln(1 + eta)."""
    return math.log1p(cosine) / math.log1p(eta)


def angle_between(chord: float, cochord: float) -> float:
    """The angle between two vectors from ‖u^ − v^‖ and ‖u^ + v^‖, radians; exact at both ends, unlike arccos."""
    return 2.0 * math.atan2(chord, cochord)


def straight_step(relative_distance: float, steps: int) -> float:
    """The least relative step that gets so far in so many steps, (1 + delta)^(1/t) - 1: all of them in one direction.

    By the triangle inequality no path with smaller steps arrives.
    """
    return math.expm1(math.log1p(relative_distance) / steps)


def wandering_step(angle: float, steps: int) -> float | None:
    """The relative step eta that turns so far when every step is orthogonal to weights and other steps.

    cos = (1 + eta^2)^(-t/2), whether the norm then grows (LARS) or is kept (Fromage). None from a right angle on.
    """
    if math.cos(angle) <= 0.0 or angle > math.pi / 2.0:
        return None
    return math.sqrt(math.expm1(math.log1p(math.tan(angle) ** 2) / steps))


def log10_function_bound(relative_steps: Sequence[float], condition: float, alpha: float, beta: float) -> float:
    """log10 of (beta kappa^2 / alpha)^L [prod_l (1 + delta_l) - 1], which bounds ||f~(x) - f(x)|| / ||f(x)||.

    Theorem 1: of two bias-free perceptrons whose layers do not narrow (n_l >= n_{l-1}). Their nonlinearity follows
    every layer, with alpha |x| <= |phi(x)| and slopes in [alpha, beta].
    `condition`: kappa, the largest condition number over all W_l, W~_l and their differences.
    -inf when no layer moved; inf for a condition number without bound.
    """
    exponent = math.fsum(math.log1p(step) for step in relative_steps)
    if exponent == 0.0:
        return -math.inf
    factor = math.log10(beta / alpha) + 2.0 * math.log10(condition)
    grown = math.log10(math.expm1(exponent)) if exponent < _LARGEST_EXPONENT else exponent / math.log(10.0)
    return len(relative_steps) * factor + grown
