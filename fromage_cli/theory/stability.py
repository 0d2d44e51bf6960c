"""Where an optimizer stops being stable on a quadratic: the largest curvature that a learning rate tolerates.

On each eigenvector of the Hessian an update rule is a linear recurrence; the threshold is the eigenvalue from which on
one of its roots leaves the unit circle. Sources: Cohen et al., *Gradient descent on neural networks typically occurs at
the edge of stability*, ICLR 2021, appendix B; Cohen et al., *Adaptive gradient methods at the edge of stability*, 2022.
The threshold is exact on a quadratic. What a network does above or below it was measured, and differs by optimizer.
"""

import math
from collections.abc import Mapping


def momentum_threshold(learning_rate: float, momentum: float = 0.0, dampening: float = 0.0) -> float:
    """(2 + 2 mu) / ((1 - d) eta) for momentum mu with dampening d, as torch's SGD has them; 2 / eta plain.

    Without momentum there is nothing to dampen.
    """
    fresh = 1.0 - dampening if momentum else 1.0
    return (2.0 + 2.0 * momentum) / (fresh * learning_rate)


def nesterov_threshold(learning_rate: float, momentum: float) -> float:
    """(2 + 2 mu) / ((1 + 2 mu) eta) for Nesterov momentum mu."""
    return (2.0 + 2.0 * momentum) / ((1.0 + 2.0 * momentum) * learning_rate)


def adam_threshold(learning_rate: float, beta1: float, weight_decay: float = 0.0) -> float:
    """(2 + 2 beta1) / ((1 - beta1) eta), held against the preconditioned Hessian P^(-1/2) H P^(-1/2).

    P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps). Decoupled decay wd takes its share of the step: times
    1 - eta wd / 2.
    """
    return (2.0 + 2.0 * beta1) / ((1.0 - beta1) * learning_rate) * (1.0 - learning_rate * weight_decay / 2.0)


def momentum_rate(curvature: float, momentum: float = 0.0, dampening: float = 0.0) -> float:
    """The learning rate whose threshold is that curvature, (2 + 2 mu) / ((1 - d) lambda)."""
    return momentum_threshold(curvature, momentum, dampening)


def nesterov_rate(curvature: float, momentum: float) -> float:
    """The learning rate whose threshold is that curvature, (2 + 2 mu) / ((1 + 2 mu) lambda)."""
    return nesterov_threshold(curvature, momentum)


def adam_rate(curvature: float, beta1: float, weight_decay: float = 0.0) -> float:
    """The learning rate whose threshold is that preconditioned curvature, A / (lambda + A wd / 2).

    A = (2 + 2 beta1) / (1 - beta1); `weight_decay` is AdamW's, decoupled.
    """
    tolerated = adam_threshold(1.0, beta1)  # A: at a rate of 1, without decay
    return tolerated / (curvature + tolerated * weight_decay / 2.0)


Bands = tuple[tuple[float, str], ...]
"""Regimes, each with the ratio of eigenvalue to threshold below which it holds."""

INITIAL_BANDS: Mapping[tuple[str, str], Bands] = {
    ("descent", "mse"): ((1.0, "lazy"), (2.0, "catapult"), (math.inf, "architecture-dependent")),
    ("descent", "cross-entropy"): ((1.0, "lazy"), (math.inf, "architecture-dependent")),
    ("momentum", "mse"): ((0.3, "lazy"), (math.inf, "architecture-dependent")),
    ("momentum", "cross-entropy"): ((0.5, "lazy"), (math.inf, "architecture-dependent")),
    ("nesterov", "mse"): ((0.5, "lazy"), (math.inf, "architecture-dependent")),
    ("nesterov", "cross-entropy"): ((0.8, "lazy"), (math.inf, "architecture-dependent")),
}
"""Of networks that begin to train, by kind of optimizer and loss, measured on 16 networks, with cross-entropy on 10.

In the first band every run survived, with momentum .5 and .9 alike. From ratio 1 to 2, 381 of 384 runs of plain descent
with squared error did. Beyond that 259 of 768 did. Beyond no ratio did nearly all diverge. Source:
docs/regime-study.md; for plain descent also Lewkowycz et al., *The large learning rate phase of deep learning*, 2020;
Zhu et al., *Quadratic models for understanding catapult dynamics*, ICLR 2024."""

LARGEST_MOMENTUM = 0.9
"""With which the bands of momentum were measured."""

EDGE = (0.8, 1.5)
"""Ratio of eigenvalue to threshold between which full-batch training hovers once it has met the threshold.

Measured on perceptrons 64-32-32-10 (tanh, ReLU, ELU) with 400 digits and squared error. There were 11 runs of gradient
descent and Adam with 2500 to 4000 steps. From the first meeting on, 90 % of the ratios of every run lay in 0.92 to
1.12. All lay in 0.78 to 1.39; a 6-16-2 one (the test of this band) reached 1.45 before it first came back. With
cross-entropy the ratio passes through the threshold early, to 1.2, and to 9 at the highest rate. Then it falls far
below it as the loss vanishes."""


TRAINED_BANDS: Mapping[tuple[str, str], Bands] = {
    ("descent", "mse"): ((EDGE[0], "lazy"), (EDGE[1], "edge-of-stability")),
    ("adaptive", "mse"): ((EDGE[0], "lazy"), (EDGE[1], "edge-of-stability")),
}
"""Of networks past their initialisation, likewise."""


def regime(bands: Bands, ratio: float) -> str | None:
    """The regime of a ratio of eigenvalue to threshold; None beyond the last band."""
    return next((word for upper, word in bands if ratio < upper), None)
