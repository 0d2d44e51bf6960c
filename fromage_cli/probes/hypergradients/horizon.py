"""How far weights follow a hyperparameter in T steps along one eigenvector of the curvature: f(s) = (1-(1-eta s)^T)/s.

It is finite where the curvature is negative or zero, and tends to 1/s, the stationary answer, as T grows. With momentum
the two-term recursion takes its place, which is linear too.
Source: Bae, Lin, Lorraine, Grosse, *Training data attribution via approximate unrolled differentiation*, 2024.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.errors import NumericalError
from fromage_cli.optimizers.settings import Optimizer


@dataclass(frozen=True)
class Horizon:
    """So many steps of m <- momentum m + (1 - dampening) g, w <- w - rate (g + momentum m, or m)."""

    steps: int
    rate: float
    """The highest of any tensor."""
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def through_momentum(self, curvature: Tensor) -> Tensor:
        """How far the weights follow a force that is part of the gradient, [k] -> [k]."""
        return self._follow(curvature, in_gradient=True)

    def past_momentum(self, curvature: Tensor) -> Tensor:
        """The same of a force that goes past the momentum, as decoupled decay does. Both raise NumericalError."""
        return self._follow(curvature, in_gradient=False)

    def _follow(self, curvature: Tensor, *, in_gradient: bool) -> Tensor:
        """One step is an affine map of (momentum, displacement); its power is taken by squaring."""
        kept, taken = self.momentum, 1.0 - self.dampening
        force = torch.full_like(curvature, float(in_gradient))
        zero, one = torch.zeros_like(curvature), torch.ones_like(curvature)
        gradient = torch.stack([zero, curvature, force], -1)  # of the state (m, e, 1), [k, 3]
        buffer = taken * gradient + kept * torch.stack([one, zero, zero], -1)
        update = gradient + self.momentum * buffer if self.nesterov else buffer
        moved = torch.stack([zero, one, zero], -1) - self.rate * update
        moved = moved - self.rate * torch.stack([zero, zero, one - force], -1)
        step = torch.stack([buffer, moved, torch.stack([zero, zero, one], -1)], -2)  # [k, 3, 3]
        followed: Tensor = -torch.linalg.matrix_power(step, self.steps)[:, 1, 2]
        if not bool(followed.isfinite().all()):
            raise NumericalError(
                f"The linearised steps diverge: in {self.steps} at a rate of {self.rate:g} they grow beyond all bounds "
                f"along curvatures from {float(curvature[0]):.3g} to {float(curvature[-1]):.3g}.",
                "Ask for fewer steps, or for --method gauss-newton.",
            )
        return followed


def horizon_of(optimizer: Optimizer, rate: float, steps: int) -> Horizon:
    """The linear recursion of an optimizer whose step averages gradients."""
    if optimizer.has("betas"):
        return Horizon(steps, rate, optimizer.betas[0], optimizer.betas[0])
    return Horizon(steps, rate, optimizer.momentum, optimizer.dampening, optimizer.nesterov)
