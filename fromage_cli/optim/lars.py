"""LARS: momentum whose gradients are scaled to the norm of their tensor.

Source: You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017; without momentum, decay and trust
coefficient it is what Bernstein et al., NeurIPS 2020, compare Fromage with.
"""

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from fromage_cli.optim.tensorwise import TensorwiseOptimizer, norms_ratio


class LARS(TensorwiseOptimizer):
    """LARS: m ← μm + (1−d)·τ·(g + λW), W ← W − ηm, with τ = trust_coefficient·‖W‖/(‖g‖ + λ‖W‖).

    By default W ← W − η(‖W‖/‖g‖)g. The first buffer is the first scaled gradient, as in torch's SGD; nesterov steps
    along τ(g + λW) + μm. `trust_clip` takes min(τ/η, 1) for τ; where ‖W‖ or ‖g‖ is zero, τ = 1. Every tensor is
    scaled, biases and gains too.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1.0,
        trust_clip: bool = False,
    ) -> None:
        settings = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(
            params, {"lr": lr, **settings, "trust_coefficient": trust_coefficient, "trust_clip": trust_clip}
        )

    def update(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the buffer of scaled gradients, or under nesterov the sum that looks ahead."""
        scaled = scaled_gradient(weight, gradient, group)
        momentum: float = group["momentum"]
        if not momentum:
            return scaled
        buffer = scaled
        if "momentum_buffer" in self.state[parameter]:
            kept = self.remembered(parameter, "momentum_buffer", scaled)
            buffer = momentum * kept + (1 - group["dampening"]) * scaled
        self.remember(parameter, "momentum_buffer", buffer)
        return scaled + momentum * buffer if group["nesterov"] else buffer


def scaled_gradient(weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Return τ(g + λW)."""
    decay: float = group["weight_decay"]
    coefficient: float = group["trust_coefficient"]
    weight_norm, gradient_norm = (torch.linalg.vector_norm(each, dtype=torch.float64) for each in (weight, gradient))
    if weight_norm == 0 or gradient_norm == 0:
        return gradient + decay * weight
    if not decay and not group["trust_clip"]:
        return coefficient * norms_ratio(weight, gradient) * gradient
    trust: torch.Tensor = coefficient * weight_norm / (gradient_norm + decay * weight_norm)
    if group["trust_clip"]:
        trust = torch.clamp(trust / group["lr"], max=1.0)
    return trust * (gradient + decay * weight)
