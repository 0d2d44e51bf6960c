"""When a layer counts as scale-invariant: the cut-offs, on plain numbers.

f(cW) = f(W) for c > 0 implies <g, W> = 0. Both are asked for. A small inner product alone happens by chance in many
dimensions. A small response alone may be that of a layer that hardly matters or is saturated. Source: Bernstein et al.,
NeurIPS 2020, section 5; the cut-offs were confirmed on small networks of known truth.
"""

import math
from dataclasses import dataclass
from typing import Literal

from fromage_cli.missing import Missing, Why

Verdict = Literal["invariant", "eps-limited", "approximate", "none", "untested"]
Granularity = Literal["tensor", "channel", "group", "head", "joint"]

VERDICTS: tuple[Verdict, ...] = ("invariant", "eps-limited", "approximate", "none")
"""From the strictest on."""
INVARIANT = 1e-3
"""Response to doubling, relative to that to a random displacement, below which nothing but rounding is left."""
APPROXIMATE = 0.02
"""Response to doubling, and |cos(g, W)|, below which a layer's scale hardly matters."""
EPS_LIMITED = 0.1
"""Response to doubling below which an epsilon may be to blame; to halving, above which a scale matters."""
EPS_RATIO = (3.0, 5.0)
"""Response to halving over that to doubling where a normalisation's epsilon is to blame: D(c) = k |1 - 1/c^2|, so 4."""
EPS_TAIL = (1.15, 1.35)
"""Response to c = 4 over that to doubling, by the same formula 1.25; a saturated layer has hardly more than 1."""

NO_MODEL = Missing(Why.NO_MODEL, "testing scale invariance needs a model and a batch")


@dataclass(frozen=True)
class Invariance:
    """Whether the network depends on a layer's scale, and in which parts."""

    verdict: Verdict = "untested"
    granularity: Granularity | None = None
    """The finest parts that may be scaled on their own; `joint`: only with the bias. None without invariance."""
    cosine: float | Missing = NO_MODEL
    """|cos(g, W)| between gradient and weights, the bias among them where it is joint."""
    response_double: float | Missing = NO_MODEL
    """D(2) = ‖f(2W) − f(W)‖ / ‖f(W)‖ of the outputs that the loss uses, or of the loss where only that is invariant."""
    response_half: float | Missing = NO_MODEL
    """D(½), likewise."""
    parts: int | None = None
    """How many parts may be scaled on their own; 1: only the whole. None without invariance."""
    axis: int | None = None
    """The dimension of W along which they lie one after another; None for the whole."""
    part_cosine: float | None = None
    """√Σ⟨g, W⟩² / √Σ‖g‖²‖W‖² over the parts."""


def untested(why: Missing) -> Invariance:
    """A layer that was not tested, for this reason."""
    return Invariance("untested", cosine=why, response_double=why, response_half=why)


@dataclass(frozen=True)
class Responses:
    """Relative changes of a network under changes of one layer, over what a random displacement of its size does."""

    double: float
    half: float
    quadruple: float | None = None
    """Only asked for where an epsilon may be to blame."""


def cosine_limit(elements: int) -> float:
    """|cos(g, W)| below which a gradient is orthogonal: a tenth of what chance gives, 1/√n, between 5e-4 and 2e-3."""
    return min(max(0.1 / math.sqrt(elements), 5e-4), 2e-3)


def may_be_epsilon(found: Responses) -> bool:
    """Whether doubling and halving respond as a normalisation's epsilon makes them."""
    low, high = EPS_RATIO
    return found.double < EPS_LIMITED and low * found.double <= found.half <= high * found.double


def verdict(found: Responses, cosine: float, elements: int) -> Verdict:
    """What the responses and the gradient say together."""
    if found.double < INVARIANT and found.half < EPS_RATIO[1] * INVARIANT and cosine < cosine_limit(elements):
        return "invariant"
    low, high = EPS_TAIL
    tail = found.quadruple
    if may_be_epsilon(found) and tail is not None and low * found.double <= tail <= high * found.double:
        return "eps-limited"
    # a saturated layer does not feel that it is doubled, and yet its gradient points along its weights
    hardly = found.double < APPROXIMATE and found.half < EPS_LIMITED and cosine < APPROXIMATE
    return "approximate" if hardly else "none"
