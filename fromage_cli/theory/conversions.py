"""Between a relative step and what people type: how long an optimizer's step is, per unit of learning rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low

from fromage_cli.theory.equilibrium import momentum_gains

INCOMPARABLE = 100.0
"""How many times the usual relative step a layer's own may be: a class token drawn with deviation 1e-6 has 300,000,
a LayerNorm's neighbour 30. Beyond it the layer is so small that its step says nothing of the network's."""


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


@dataclass(frozen=True)
class RelativeSteps:
    """The relative steps of a network's layers, those apart that have none to compare."""

    steps: Mapping[str, float]
    """||u_l|| / ||W_l|| of every layer that moves and has a relative size, per unit of learning rate."""
    usual: float
    """That of all layers together, or of the middle one where this is larger; 0 where nothing has a size."""
    without_size: tuple[str, ...]
    """Layers that move and whose weights are zero, or far smaller than their own step."""


def relative_steps_of(norms: Mapping[str, tuple[float, float]]) -> RelativeSteps:
    """Separates layers whose relative step can be compared with the others' from those that are nearly zero.

    `norms`: ||u_l|| and ||W_l|| by layer, of those that stand still too. The usual step is the larger of
    two: ||u|| / ||W|| over all layers together, and its median over those that move. A layer without gradient cannot
    lower the first much; one layer of large weights cannot lower the second.
    """
    moving = {name: (step, weight) for name, (step, weight) in norms.items() if step > 0.0}
    ratios = {name: step / weight if weight > 0.0 else math.inf for name, (step, weight) in moving.items()}
    weights = math.hypot(*(weight for _, weight in norms.values()))
    whole = math.hypot(*(step for step, _ in moving.values())) / weights if weights > 0.0 else 0.0
    middle = median_low(ratios.values()) if ratios else 0.0
    usual = max(whole, middle if math.isfinite(middle) else 0.0)
    steps = {name: ratio for name, ratio in ratios.items() if ratio <= INCOMPARABLE * usual}
    return RelativeSteps(steps, usual, tuple(name for name in ratios if name not in steps))


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
