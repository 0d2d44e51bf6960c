"""Deep relative trust and what follows from it.

Source: Bernstein, Vahdat, Yue, Liu, *On the distance between two neural networks and the stability of
learning*, NeurIPS 2020: the model of Section 4 and Lemma 2.
"""

import math
import sys
from collections.abc import Iterable

_LARGEST_EXPONENT = math.log(sys.float_info.max)


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
