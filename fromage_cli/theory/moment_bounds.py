"""What averages of gradients and of their squares can be, whatever the gradients were.

    m_t = beta1 m + (1 - beta1) g,    v_t = beta2 v + (1 - beta2) g^2

Of averages that began at 0, Cauchy-Schwarz gives |m_t| <= C_t sqrt(v_t) in every entry, with
C_t = (1 - beta1) sqrt((1 + q + ... + q^(t-1)) / (1 - beta2)) and q = beta1^2 / beta2. Equality needs gradients that
are, k steps back, proportional to (beta1 / beta2)^k. The same holds of what t steps add:
|m_t - beta1^t m_0| <= C_t sqrt(v_t - beta2^t v_0).
"""

import math


def moment_bound(beta1: float, beta2: float, steps: float, least: float | None = None) -> float:
    """C_t: the most that |m| can be over sqrt(v) after so many steps from 0.

    Where beta1 changes along the run it is the largest, and `least` the smallest. C_t is then
    (1 - least) / (1 - beta1) times as large. A gradient weighs at most (1 - least) beta1^k in m after k steps.
    Infinite where beta2 is 0 and earlier gradients still count in m, or where it leaves float64.
    """
    if steps <= 0.0:
        return 0.0
    if beta2 <= 0.0:
        return 1.0 if steps <= 1.0 or beta1 == 0.0 else math.inf
    newest = 1.0 - (beta1 if least is None else least)
    return newest * math.sqrt(_geometric_sum(beta1 * beta1 / beta2, steps) / (1.0 - beta2))


def step_bound(beta1: float, beta2: float, steps: float, least: float | None = None) -> float:
    """The most that |m^| / sqrt(v^) can be: C_t after both averages are corrected for their start at 0."""
    correction: float = math.sqrt(1.0 - beta2**steps) / (1.0 - beta1**steps)
    return moment_bound(beta1, beta2, steps, least) * correction


def noise_size(beta1: float) -> float:
    """The root mean square of m / sqrt(v) where gradients are independent of mean 0, and v has settled."""
    return math.sqrt((1.0 - beta1) / (1.0 + beta1))


def _geometric_sum(ratio: float, terms: float) -> float:
    """1 + q + ... of so many terms."""
    if ratio == 1.0:
        return terms
    if ratio < 1.0:
        return -math.expm1(terms * math.log(ratio)) / (1.0 - ratio) if ratio > 0.0 else 1.0
    exponent = terms * math.log(ratio)
    return math.expm1(exponent) / (ratio - 1.0) if exponent < 700.0 else math.inf
