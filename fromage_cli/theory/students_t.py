"""How many standard errors a mean of few values has to lie from 0 to be told from it."""

import math

NORMAL = 1.959964
"""The same of many values: the quantile of the normal distribution at 97.5 %."""


def sure(values: int) -> float:
    """Student's t at 97.5 %, of a standard error from so many values; infinite of one.

    Exact for one and two degrees of freedom, else by Cornish and Fisher's expansion, within .3 %.
    Source: Abramowitz, Stegun, *Handbook of Mathematical Functions*, 26.7.5.
    """
    freedom, z = values - 1, NORMAL
    if freedom < 1:
        return math.inf
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 / math.sqrt(2.0 * 0.975 * 0.025)
    terms = (
        z,
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
