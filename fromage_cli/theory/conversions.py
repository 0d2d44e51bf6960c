"""Between a relative step and what people type: how long an optimizer's step is, per unit of learning rate."""

import math
from collections.abc import Mapping

from fromage_cli.theory.equilibrium import momentum_gains


def stationary_gain(momentum: float, dampening: float = 0.0) -> float:
    """(1 - d) / (1 - mu): how many times a constant gradient the buffer of momentum mu with dampening d comes to."""
    return (1.0 - dampening) / (1.0 - momentum)


def averaging_gain(momentum: float, dampening: float = 0.0, nesterov: bool = False) -> float:
    """By how many times momentum makes the batch larger whose noise the step has, once its buffer is full.

    The step is sum_k h_k g_{t-k} of independent gradients with a common mean: (sum h_k)^2 / sum h_k^2; plain momentum
    has h_k = (1 - d) mu^k and with it (1 + mu) / (1 - mu).
    """
    gains = momentum_gains(momentum, dampening, nesterov)
    return gains.total**2 / gains.squared


def muon_factor(rows: int, columns: int, adjustment: str | None) -> float:
    """What Muon's rate is multiplied by for a matrix of that shape: torch's `original` (None) or `match_rms_adamw`."""
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def largest_rate(eta: float, steps: Mapping[str, float]) -> tuple[float | None, str | None]:
    """The learning rate at which no layer moves by more than eta, and the layer that moves by it.

    `steps`: ||u_l|| / ||W_l|| by layer, the relative step per unit of learning rate. None where nothing moves.
    """
    fastest = max(steps, key=lambda name: steps[name], default=None)
    if fastest is None or not 0.0 < steps[fastest] < math.inf:
        return None, None
    return eta / steps[fastest], fastest


def relative_step(learning_rate: float, steps: Mapping[str, float]) -> float | None:
    """The largest relative step max_l lr ||u_l|| / ||W_l|| of a learning rate; None where nothing moves."""
    return learning_rate * max(steps.values()) if steps else None
