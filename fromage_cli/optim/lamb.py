"""LAMB: Adam's update of each tensor, scaled to the norm of the tensor.

Source: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020, Algorithm 2.
"""

import math
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from fromage_cli.optim.tensorwise import TensorwiseOptimizer, norms_ratio


class LAMB(TensorwiseOptimizer):
    """LAMB: u = m̂/(√v̂ + ε) + λW, W ← W − η(‖W‖/‖u‖)u, with the bias-corrected moments of Adam.

    The ratio is 1 where ‖W‖ or ‖u‖ is zero, and at most 1 with `trust_clip`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        trust_clip: bool = False,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "trust_clip": trust_clip}
        super().__init__(params, {"lr": lr, **settings})

    def update(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return Adam's update with decay, at the norm of the weights."""
        moments = self.update_by_moments(parameter, gradient, group)
        update = moments.add(weight, alpha=group["weight_decay"])
        return self.trust_ratio(weight, update, group) * update

    def update_by_moments(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Return m̂/(√v̂ + ε), the moments with this gradient taken in."""
        beta1, beta2 = group["betas"]
        steps = self.state[parameter].get("step", 0) + 1
        first = torch.lerp(gradient, self.remembered(parameter, "exp_avg", gradient), beta1)
        second = gradient.square().lerp_(self.remembered(parameter, "exp_avg_sq", gradient), beta2)
        self.state[parameter]["step"] = steps
        self.remember(parameter, "exp_avg", first)
        self.remember(parameter, "exp_avg_sq", second)
        root = second.sqrt().div_(math.sqrt(1 - beta2**steps)).add_(group["eps"])
        root.mul_(1 - beta1**steps)
        return torch.div(first, root, out=root)  # in its place: of a large tensor every copy counts

    @staticmethod
    def trust_ratio(weight: torch.Tensor, update: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Return what brings an update, decay included, to the norm of the weights."""
        ratio = norms_ratio(weight, update)
        return torch.clamp(ratio, max=1.0) if group["trust_clip"] else ratio
