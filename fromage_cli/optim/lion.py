"""Lion: the sign of an interpolated momentum.

Source: Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, Algorithm 2.
"""

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from fromage_cli.optim.tensorwise import TensorwiseOptimizer


class Lion(TensorwiseOptimizer):
    """Lion: W ← W − η(sign(β₁m + (1−β₁)g) + λW), then m ← β₂m + (1−β₂)g."""

    def __init__(
        self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def update(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the sign of every entry, and its decay."""
        beta1, beta2 = group["betas"]
        average = self.remembered(parameter, "exp_avg", gradient)
        update: torch.Tensor = torch.lerp(gradient, average, beta1).sign_() + group["weight_decay"] * weight
        self.remember(parameter, "exp_avg", torch.lerp(gradient, average, beta2))
        return update
