"""Fromage: every tensor moves by a step relative to its own norm, biases and gains too.

Written from the formula of Bernstein, Vahdat, Yue and Liu, *On the distance between two neural networks and the
stability of learning*, NeurIPS 2020.
"""

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from fromage_cli.optim.tensorwise import TensorwiseOptimizer, norms_ratio


class Fromage(TensorwiseOptimizer):
    """Fromage: W ← (W − η(‖W‖/‖g‖)g) / √(1+η²).

    Where ‖W‖ or ‖g‖ is zero their ratio counts as 1. A step orthogonal to W keeps ‖W‖. `p_bound` clamps ‖W‖ to
    `p_bound` times its norm before the first step, which the state holds as `initial_norm`. A tensor that starts at
    zero then stays there.
    """

    def __init__(self, params: ParamsT, lr: float = 0.01, p_bound: float | None = None) -> None:
        super().__init__(params, {"lr": lr, "p_bound": p_bound})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; a `p_bound` that is not above zero is a ValueError."""
        bound = param_group.get("p_bound", self.defaults["p_bound"])
        if bound is not None and not bound > 0:
            raise ValueError(f"Invalid p_bound: {bound}; expected a number above zero, or None")
        super().add_param_group(param_group)

    def update(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the gradient at the norm of the weights."""
        return norms_ratio(weight, gradient) * gradient

    def finished(
        self, parameter: torch.Tensor, weight: torch.Tensor, following: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the step's end divided by √(1+η²), clamped to the bound if there is one."""
        following = following / (1 + group["lr"] ** 2) ** 0.5
        if group["p_bound"] is None:
            return following
        state = self.state[parameter]
        if "initial_norm" not in state:
            # A plain number: loading a state dictionary would round a tensor to the parameter's dtype.
            state["initial_norm"] = torch.linalg.vector_norm(weight).item()
        return clamp_norm(following, group["p_bound"] * state["initial_norm"])


def clamp_norm(weight: torch.Tensor, bound: float) -> torch.Tensor:
    """Return the tensor, scaled down to norm `bound` if its own is larger."""
    norm = torch.linalg.vector_norm(weight)
    over = norm > bound
    return weight * torch.where(over, bound / torch.where(over, norm, 1.0), 1.0)  # finite derivatives at 0 too
