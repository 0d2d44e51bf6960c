"""Fromage and LARS: torch optimizers that move every tensor by a step relative to its own norm.

Written from the formulas of Bernstein, Vahdat, Yue and Liu, "On the distance between two neural networks and the
stability of learning", NeurIPS 2020. Both treat each tensor by itself, biases and gains too. A step is computed in
float64 and rounded once, to the tensor's own dtype: float32 norms are off by as much as the growth they should show.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim.optimizer import Optimizer, ParamsT


def relative_step(weight: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> torch.Tensor:
    """Return W − η(‖W‖/‖g‖)g for float64 tensors; where ‖W‖ or ‖g‖ is zero, W − ηg."""
    weight_norm, gradient_norm = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    either_is_zero = (weight_norm == 0) | (gradient_norm == 0)
    ratio = torch.where(either_is_zero, 1.0, weight_norm / gradient_norm)
    return weight - learning_rate * ratio * gradient


class RelativeOptimizer(Optimizer):
    """An optimizer whose update of a tensor needs only that tensor, its gradient and its group's settings."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; a learning rate below zero or not finite is a ValueError."""
        learning_rate = param_group.get("lr", self.defaults["lr"])
        if not 0 <= learning_rate < math.inf:
            raise ValueError(f"Invalid learning rate: {learning_rate}; expected a finite number, zero or above")
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every tensor that has a gradient; `closure` recomputes the loss, which is then returned.

        Raises RuntimeError for a gradient that is sparse or complex, before anything has moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        moving = [(parameter, group) for parameter, group in moving if parameter.grad is not None]
        for parameter, _ in moving:
            self._refuse_sparse_and_complex(parameter, parameter.grad)
        for parameter, group in moving:
            weight, gradient = parameter.to(torch.float64), parameter.grad.to(torch.float64)
            parameter.copy_(self.updated(parameter, weight, gradient, group))
        return loss

    @abstractmethod
    def updated(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the next float64 value of `parameter`; `weight` and `gradient` are its float64 copies."""

    def _refuse_sparse_and_complex(self, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        """Raise RuntimeError unless the gradient is dense and real."""
        shape = tuple(parameter.shape)
        if gradient.layout != torch.strided:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients: the gradient of a tensor of shape {shape} "
                f"has layout {gradient.layout}; build its layer with sparse=False"
            )
        if gradient.is_complex():
            raise RuntimeError(
                f"{type(self).__name__} supports real tensors only: one of shape {shape} is {gradient.dtype}; "
                "make its real and imaginary parts two parameters"
            )


class Fromage(RelativeOptimizer):
    """Fromage: W ← (W − η(‖W‖/‖g‖)g) / √(1+η²).

    A step orthogonal to W keeps ‖W‖. `p_bound` clamps ‖W‖ to `p_bound` times its norm before the first step, which
    the state holds as `initial_norm`; a tensor that starts at zero then stays there.
    """

    def __init__(self, params: ParamsT, lr: float = 0.01, p_bound: float | None = None) -> None:
        super().__init__(params, {"lr": lr, "p_bound": p_bound})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; a `p_bound` that is not above zero is a ValueError."""
        bound = param_group.get("p_bound", self.defaults["p_bound"])
        if bound is not None and not bound > 0:
            raise ValueError(f"Invalid p_bound: {bound}; expected a number above zero, or None")
        super().add_param_group(param_group)

    def updated(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the next value: the relative step, divided by √(1+η²), clamped to the bound if there is one."""
        following = relative_step(weight, gradient, group["lr"]) / math.sqrt(1 + group["lr"] ** 2)
        if group["p_bound"] is None:
            return following
        state = self.state[parameter]
        if "initial_norm" not in state:
            # A plain number: loading a state dictionary would round a tensor to the parameter's dtype.
            state["initial_norm"] = torch.linalg.vector_norm(weight).item()
        return clamp_norm(following, group["p_bound"] * state["initial_norm"])


class LARS(RelativeOptimizer):
    """LARS as the paper compares it, Fromage without the prefactor: W ← W − η(‖W‖/‖g‖)g; no momentum, no decay."""

    def __init__(self, params: ParamsT, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    def updated(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the next value: the relative step alone."""
        return relative_step(weight, gradient, group["lr"])


def clamp_norm(weight: torch.Tensor, bound: float) -> torch.Tensor:
    """Return the tensor, scaled down to norm `bound` if its own is larger."""
    norm = torch.linalg.vector_norm(weight)
    return torch.where(norm > bound, weight * (bound / norm), weight)
