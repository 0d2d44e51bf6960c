"""What one optimizer's next step makes of one tensor: w - learning rate * (update + shrinkage * w).

Sources: torch.optim's SGD, Adam, AdamW and Muon; You et al., 2017 (LARS); You et al., ICLR 2020 (LAMB); Chen et al.,
NeurIPS 2023 (Lion); Bernstein et al., NeurIPS 2020 (Fromage, without its prefactor); Jordan et al., *Muon*, 2024.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, LAMB, LARS, LION, MUON, SGD
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.moments import next_adam_update
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.conversions import muon_factor, stationary_gain


@dataclass(frozen=True)
class Memory:
    """Means over minibatch gradients at fixed weights, which stand in for what an optimizer would remember."""

    mean: Tensor
    """Of the gradients."""
    square: Tensor | None = None
    """Of their squares."""


@dataclass(frozen=True)
class Place:
    """One tensor with everything that its next step depends on."""

    weight: Tensor
    gradient: Tensor
    decay: float = 0.0
    slot: Mapping[str, Any] | None = None
    """What the optimizer remembers; None before its first step."""
    settings: Mapping[str, Any] | None = None
    """Those of its group."""
    memory: Memory | None = None


@dataclass(frozen=True)
class TensorStep:
    """How one tensor would move, per unit of learning rate."""

    update: Tensor
    """Everything but decoupled decay."""
    shrinkage: float = 0.0
    """Decoupled decay's share of the weights."""


def tensor_step(optimizer: Optimizer, place: Place) -> TensorStep:
    """The next step of one tensor under the optimizer's rule."""
    return RULES[optimizer.name or SGD.name](optimizer, place)


def moves(optimizer: Optimizer, tensor: Tensor) -> bool:
    """Whether the rule covers the tensor: Muon takes matrices only."""
    return optimizer.rule is None or not optimizer.rule.matrices_only or tensor.dim() == 2


def _sgd(optimizer: Optimizer, place: Place) -> TensorStep:
    slope = place.gradient.add(place.weight, alpha=place.decay)
    return TensorStep(_with_momentum(optimizer, slope, place))


def _with_momentum(optimizer: Optimizer, slope: Tensor, place: Place) -> Tensor:
    """The step of torch's SGD along a slope: with its buffer, as after many equal slopes, or its first one."""
    if not optimizer.momentum:
        return slope
    kept = (place.slot or {}).get("momentum_buffer")
    if kept is not None:
        moved = optimizer.momentum * kept.to(slope) + (1.0 - optimizer.dampening) * slope
    elif place.memory is not None:
        moved = stationary_gain(optimizer.momentum, optimizer.dampening) * slope
    else:
        moved = slope
    return slope.add(moved, alpha=optimizer.momentum) if optimizer.nesterov else moved


def _lars(optimizer: Optimizer, place: Place) -> TensorStep:
    slope = place.gradient.add(place.weight, alpha=place.decay)
    weight_norm, gradient_norm = norm(place.weight), norm(place.gradient)
    if weight_norm > 0.0 and gradient_norm > 0.0:
        scale = optimizer.trust_coefficient * weight_norm / (gradient_norm + place.decay * weight_norm)
        slope = scale * slope
    return TensorStep(_with_momentum(optimizer, slope, place))


def _fromage(optimizer: Optimizer, place: Place) -> TensorStep:
    return TensorStep(_norms_ratio(place.weight, place.gradient) * place.gradient)


def _adam(optimizer: Optimizer, place: Place) -> TensorStep:
    coupled = place.decay if optimizer.rule is ADAM else 0.0
    gradient = place.gradient.add(place.weight, alpha=coupled)
    return TensorStep(_adam_update(optimizer, gradient, place), place.decay - coupled)


def _adam_update(optimizer: Optimizer, gradient: Tensor, place: Place) -> Tensor:
    if _knows_moments(place.slot) or place.memory is None or place.memory.square is None:
        slot = place.slot if _knows_moments(place.slot) else None
        amsgrad = (place.settings or {}).get("amsgrad", optimizer.amsgrad)
        return next_adam_update(
            gradient, slot, {"betas": optimizer.betas, "eps": optimizer.epsilon, "amsgrad": amsgrad}
        )
    mean = place.memory.mean + (gradient - place.gradient)  # coupled decay
    return mean.div(place.memory.square.sqrt().add_(optimizer.epsilon))


def _knows_moments(slot: Mapping[str, Any] | None) -> bool:
    return slot is not None and {"exp_avg", "exp_avg_sq", "step"} <= set(slot)


def _lamb(optimizer: Optimizer, place: Place) -> TensorStep:
    update = _adam_update(optimizer, place.gradient, place)
    ratio = _norms_ratio(place.weight, update.add(place.weight, alpha=place.decay))
    ratio = min(ratio, 1.0) if optimizer.trust_clip else ratio
    return TensorStep(ratio * update, ratio * place.decay)


def _lion(optimizer: Optimizer, place: Place) -> TensorStep:
    average = (place.slot or {}).get("exp_avg")
    if average is None:
        average = torch.zeros_like(place.gradient) if place.memory is None else place.memory.mean
    mixed = torch.lerp(place.gradient, average.to(place.gradient), optimizer.betas[0])
    return TensorStep(torch.sign(mixed), place.decay)


def _muon(optimizer: Optimizer, place: Place) -> TensorStep:
    kept = (place.slot or {}).get("momentum_buffer")
    if kept is None:
        kept = torch.zeros_like(place.gradient) if place.memory is None else place.memory.mean
    buffer = torch.lerp(place.gradient, kept.to(place.gradient), optimizer.momentum)
    mixed = torch.lerp(place.gradient, buffer, optimizer.momentum) if optimizer.nesterov else buffer
    rows, columns = place.weight.shape
    factor = muon_factor(rows, columns, optimizer.arguments["adjust_lr_fn"])
    return TensorStep(factor * orthogonalised(mixed, optimizer), place.decay)


def orthogonalised(matrix: Tensor, optimizer: Optimizer) -> Tensor:
    """The matrix with its singular values drawn near 1, by Newton-Schulz iterations in bfloat16 as torch runs them.

    X <- aX + (bA + cA^2) X with A = X X^T, from X = matrix / ||matrix||.
    """
    first, second, third = optimizer.arguments["ns_coefficients"]
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp(min=optimizer.epsilon)
    for _ in range(optimizer.arguments["ns_steps"]):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return (x.T if tall else x).to(matrix)


def _norms_ratio(weight: Tensor, update: Tensor) -> float:
    """||weight|| / ||update||; 1 where either is zero, or the ratio is no number of float32."""
    above, below = norm(weight), norm(update)
    ratio = above / below if above > 0.0 and below > 0.0 else 1.0
    return ratio if math.isfinite(ratio) else 1.0


RULES: dict[str, Callable[[Optimizer, Place], TensorStep]] = {
    SGD.name: _sgd,
    LARS.name: _lars,
    FROMAGE.name: _fromage,
    ADAM.name: _adam,
    ADAMW.name: _adam,
    LAMB.name: _lamb,
    LION.name: _lion,
    MUON.name: _muon,
}
