"""The step that an optimizer would take next, everything included, and the matrix that its threshold is held against.

Source: torch.optim's SGD, Adam and AdamW; Cohen et al., *Adaptive gradient methods at the edge of stability*, 2022.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.checkpoints.optimizer_state import slot_shape
from fromage_cli.probes.minibatches import minibatches
from fromage_cli.probes.moments import (
    EPSILON,
    MINIBATCHES,
    next_adam_update,
    slots_by_name,
    update_from_minibatches,
)
from fromage_cli.probes.optimizer import Optimizer
from fromage_cli.problem.problem import Problem


def decays(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> dict[str, float]:
    """The weight decay of each tensor that receives a gradient; the largest for all where slots tell nothing."""
    if optimizer.decay_given or state is None or not any(slot_shape(slot) for slot in state.slots.values()):
        return {tensor.name: optimizer.weight_decay for tensor in problem.receiving}
    settings = slots_by_name(problem, state)
    return {name: float(group.get("weight_decay") or 0.0) for name, (_, group) in settings.items()}


def next_step(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> tuple[dict[str, Tensor], str]:
    """The u by tensor name that make w - learning rate * u the next step; and a sentence on where they come from.

    Raises MismatchError when the state does not fit the model.
    """
    decay = decays(problem, optimizer, state)
    if optimizer.adaptive:
        return _adam_step(problem, optimizer, state, decay)
    steps = {}
    slots = slots_by_name(problem, state) if state is not None and state.has("momentum_buffer") else {}
    for tensor in problem.receiving:
        slope = problem.base.gradients[tensor.name].add(tensor.parameter.detach(), alpha=decay[tensor.name])
        buffer = (slots.get(tensor.name, (None, {}))[0] or {}).get("momentum_buffer")
        steps[tensor.name] = _momentum_step(optimizer, slope, buffer)
    known = optimizer.momentum and any((slot or {}).get("momentum_buffer") is not None for slot, _ in slots.values())
    remembered = "with the momentum in the checkpoint" if known else "the gradient of the batch, no momentum kept"
    return steps, f"step: sgd, {remembered}."


def _momentum_step(optimizer: Optimizer, slope: Tensor, buffer: Tensor | None) -> Tensor:
    """The step of torch's SGD; without a buffer its first one."""
    if not optimizer.momentum:
        return slope
    moved = slope.clone()
    if buffer is not None:
        moved = optimizer.momentum * buffer.to(slope) + (1.0 - optimizer.dampening) * slope
    return slope.add(moved, alpha=optimizer.momentum) if optimizer.nesterov else moved


def _adam_step(
    problem: Problem, optimizer: Optimizer, state: OptimizerState | None, decay: Mapping[str, float]
) -> tuple[dict[str, Tensor], str]:
    weights = {tensor.name: tensor.parameter.detach() for tensor in problem.receiving}
    if state is not None and state.has("exp_avg", "exp_avg_sq", "step"):
        coupled = decay if optimizer.name == "adam" else {}
        steps = {
            name: next_adam_update(
                problem.base.gradients[name].add(weights[name], alpha=coupled.get(name, 0.0)),
                slot,
                {**settings, "betas": optimizer.betas},
            )
            for name, (slot, settings) in slots_by_name(problem, state).items()
        }
        source = "with the moments in the checkpoint"
    else:
        parts = minibatches(problem, min(MINIBATCHES, problem.batch.size))
        steps = update_from_minibatches(problem, parts)
        source = f"its moments from {len(parts)} gradients of {parts[0].size} rows each at fixed weights"
    if optimizer.name == "adamw":
        steps = {name: step.add(weights[name], alpha=decay[name]) for name, step in steps.items()}
    return steps, f"step: {optimizer.name}, {source}."


def preconditioner(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> dict[str, Tensor] | None:
    """P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps) of each tensor, from Adam's state; None without one.

    AMSGrad puts its maximum in place of v. Raises MismatchError when the state does not fit the model.
    """
    if state is None or not state.has("exp_avg_sq", "step"):
        return None
    beta1, beta2 = optimizer.betas
    found = {}
    for name, (slot, settings) in slots_by_name(problem, state).items():
        if slot is None:
            return None
        steps = float(slot["step"])
        kept = slot.get("max_exp_avg_sq") if settings.get("amsgrad") else None
        second = (slot["exp_avg_sq"] if kept is None else kept).to(problem.base.gradients[name])
        root = second.div(1.0 - beta2**steps).sqrt_().add_(float(settings.get("eps", EPSILON)))
        found[name] = root.mul_(1.0 - beta1**steps)
    return found if all(bool(torch.isfinite(p).all() and (p > 0).all()) for p in found.values()) else None


def steps_taken(state: OptimizerState | None) -> float:
    """How many steps the optimizer's state has seen; 0 where it does not tell."""
    if state is None:
        return 0.0
    counts = [float(slot["step"]) for slot in state.slots.values() if "step" in slot]
    return max((count for count in counts if math.isfinite(count)), default=0.0)
