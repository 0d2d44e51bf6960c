"""What the optimizers here share: each tensor by itself, its next value in float64, rounded once to its own dtype.

float32 norms are off by as much as the growth they should show.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim.optimizer import Optimizer, ParamsT


def norms_ratio(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """‖first‖ / ‖second‖ in float64; 1 where either is zero."""
    above, below = (torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in (first, second))
    none = (above == 0) | (below == 0)
    return torch.where(none, 1.0, above / torch.where(none, 1.0, below))


class TensorwiseOptimizer(Optimizer):
    """An optimizer whose update of a tensor needs only that tensor, its gradient and its group's settings."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; a number out of range is a ValueError."""
        settings = {**self.defaults, **param_group}
        _check("learning rate", settings["lr"], math.inf)
        _check("weight decay", settings.get("weight_decay", 0.0), math.inf)
        _check("momentum", settings.get("momentum", 0.0), 1.0)
        for index, beta in enumerate(settings.get("betas", ()), 1):
            _check(f"beta{index}", beta, 1.0)
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
            parameter.copy_(self.following(parameter, weight, gradient, group))
        return loss

    def following(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the next weights; the state goes on by one, and the graph is kept where one is recorded.

        Rate and weight decay may be scalar tensors that require a gradient.
        """
        return self.finished(
            parameter, weight, weight - group["lr"] * self.update(parameter, weight, gradient, group), group
        )

    @abstractmethod
    def update(
        self, parameter: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return the u of the step W − ηu, in the precision of `weight` and `gradient`; the state goes on by one."""

    def finished(
        self, parameter: torch.Tensor, weight: torch.Tensor, following: torch.Tensor, group: dict[str, Any]
    ) -> torch.Tensor:
        """Return what becomes of `parameter` after W − ηu, here nothing else."""
        return following

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

    def remembered(self, parameter: torch.Tensor, name: str, like: torch.Tensor) -> torch.Tensor:
        """What the state holds of that tensor under that name, in another's precision; zeros before the first step."""
        kept = self.state[parameter].get(name)
        return torch.zeros_like(like) if kept is None else kept.to(like)

    def remember(self, parameter: torch.Tensor, name: str, value: torch.Tensor) -> None:
        """Keep it in the tensor's own dtype, as loading a state dictionary would make it."""
        self.state[parameter][name] = value.to(parameter.dtype)


def _check(name: str, value: float, limit: float) -> None:
    if not 0 <= value < limit:
        expected = "a finite number, zero or above" if limit == math.inf else f"a number from zero to below {limit:g}"
        raise ValueError(f"Invalid {name}: {value}; expected {expected}")
