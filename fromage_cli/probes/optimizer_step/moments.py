"""Adam's next update at fixed weights: from the state in the checkpoint, else from minibatch gradients.

Source: Kingma, Ba, *Adam*, ICLR 2015, Algorithm 1; AMSGrad: Reddi, Kale, Kumar, ICLR 2018.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fromage_cli.checkpoints import OptimizerState, match_parameters
from fromage_cli.checkpoints.optimizers.optimizer_state import slot_shape
from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step.minibatches import minibatches, visit_minibatches
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor, unwrapped

MINIBATCHES = 16
"""Minibatch gradients that stand in for missing moments."""
FIRST_STEP = "the gradient of all rows, which cannot be cut: it is the step without a past"
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""What torch's Adam takes when nothing is said."""


def adam_update(problem: Problem, state: OptimizerState | None) -> tuple[dict[str, Tensor], str]:
    """The next step's u = m^ / (sqrt(v^) + eps), by tensor name, and a sentence on where it comes from."""
    if state is not None and holds_moments(state):
        return update_from_state(problem, state), "adam: moments from the optimizer's state in the checkpoint."
    parts = minibatches(problem, _parts_for_moments(problem))
    update, source = _minibatch_update(problem, parts) if parts else None, FIRST_STEP
    if update is None:
        update = {name: gradient / (gradient.abs() + EPSILON) for name, gradient in problem.base.gradients.items()}
    else:
        source = _samples(parts)
    return update, f"adam: the checkpoint holds no moments; they come from {source}."


def holds_moments(state: OptimizerState | None) -> bool:
    """Whether Adam's moments are there."""
    return state is not None and state.has("exp_avg", "exp_avg_sq", "step")


def moment_rows(problem: Problem) -> int:
    """On how many rows the minibatch gradients are taken that stand in for missing moments."""
    return sum(part.size for part in minibatches(problem, _parts_for_moments(problem)))


def _parts_for_moments(problem: Problem) -> int:
    return min(MINIBATCHES, problem.batch.size // 2)


def update_from_state(problem: Problem, state: OptimizerState) -> dict[str, Tensor]:
    """The update that the optimizer's next step would make with the gradient of the batch, before rate and decay.

    Decay that is coupled to the gradient goes through the moments and belongs to it; decoupled decay does not. Where
    groups have rates of their own, each update is scaled by its group's rate over the highest.
    Raises MismatchError when the state does not fit the model.
    """
    weights = {tensor.name: tensor.parameter.detach() for tensor in problem.receiving}
    found = slots_by_name(problem, state)
    highest = max((float(settings.get("lr") or 0.0) for _, settings in found.values()), default=0.0)
    updates = {}
    for name, (slot, settings) in found.items():
        coupled = float(settings.get("weight_decay") or 0.0) if settings.get("decoupled_weight_decay") is False else 0.0
        gradient = problem.base.gradients[name].add(weights[name], alpha=coupled)
        update = next_adam_update(gradient, slot, settings)
        updates[name] = update.mul_(float(settings.get("lr") or 0.0) / highest) if highest > 0.0 else update
    return updates


def slots_by_name(
    problem: Problem, state: OptimizerState, covers: str = "all"
) -> dict[str, tuple[Mapping[str, Any] | None, Mapping[str, Any]]]:
    """What the optimizer remembers of each tensor that receives a gradient, and the settings of its group.

    None for a tensor that was never updated; `covers`: `all`, or `matrices` for an optimizer of tensors with two
    dimensions. Raises MismatchError when the state does not fit the model.
    """
    numbers = match_parameters(state, held_shapes(problem, state, covers))
    settings = {number: group.settings for group in state.groups for number in group.numbers}
    found = {}
    for tensor in problem.receiving:
        if tensor.name not in numbers:
            continue
        number, shape = numbers[tensor.name], tuple(tensor.parameter.shape)
        slot = state.slots.get(number)
        stored = slot_shape(slot) if slot is not None else None
        if stored not in (None, shape):
            raise MismatchError(
                f"The optimizer's state for {tensor.name!r} has shape {list(stored or ())}, the tensor {list(shape)}.",
                "It belongs to another model.",
            )
        found[tensor.name] = slot, settings[number]
    return found


def held_shapes(problem: Problem, state: OptimizerState, covers: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that the optimizer holds; of matrices, those that it names where it does.

    They are the trainable ones, or all of the model's where an optimizer of as many was given the frozen ones too.
    """
    tensors = problem.trainable
    if covers == "matrices":
        tensors = [tensor for tensor in tensors if tensor.parameter.dim() == 2]
        named = {name for group in state.groups for name in group.names or ()}
        tensors = [tensor for tensor in tensors if tensor.name in named] or tensors
    held = {tensor.name: tuple(tensor.parameter.shape) for tensor in tensors}
    everything = {name: tuple(value.shape) for name, value in unwrapped(problem.model).named_parameters()}
    count = sum(len(group.numbers) for group in state.groups)
    return everything if covers == "all" and count == len(everything) else held


def next_adam_update(gradient: Tensor, slot: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Tensor:
    """The bias-corrected update of one tensor after one more gradient; `slot` None is the very first step."""
    beta1, beta2 = (float(beta) for beta in settings.get("betas", BETAS))
    if slot is None:
        first, second, highest, steps = torch.zeros_like(gradient), torch.zeros_like(gradient), None, 0.0
    else:
        first, second = (slot[name].to(gradient) for name in ("exp_avg", "exp_avg_sq"))
        highest = slot.get("max_exp_avg_sq") if settings.get("amsgrad") else None
        steps = float(slot["step"])
    first = torch.lerp(gradient, first, beta1)
    second = torch.lerp(gradient.square(), second, beta2)
    if highest is not None:
        second = torch.maximum(second, highest.to(gradient))
    steps += 1.0
    root = second.sqrt_().div_(math.sqrt(1.0 - beta2**steps)).add_(float(settings.get("eps", EPSILON)))
    return first.div_(1.0 - beta1**steps).div_(root)


def update_from_moments(means: dict[str, Tensor], squares: dict[str, Tensor]) -> dict[str, Tensor]:
    """The update m / (sqrt(v) + eps), written over both."""
    return {name: mean.div_(squares[name].sqrt_().add_(EPSILON)) for name, mean in means.items()}


def moments_of_minibatches(problem: Problem, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The mean and the mean square of `count` minibatch gradients at fixed weights, and words on where they come from.

    Where the rows cannot be cut (BatchNorm, few rows, a loss of rows together), those of the very first step: the
    gradient of all rows and its square. Costs at most one gradient of all rows.
    """
    parts = minibatches(problem, count)
    found = _mean_gradients(problem, parts) if parts else None
    if found is not None:
        return *found, _samples(parts)
    gradients = problem.base.gradients
    return (
        {name: gradient.clone() for name, gradient in gradients.items()},
        {name: gradient.square() for name, gradient in gradients.items()},
        FIRST_STEP,
    )


def _samples(parts: Sequence[Batch]) -> str:
    rows = f"{parts[0].size} row{'' if parts[0].size == 1 else 's'}"
    return f"{len(parts)} gradients of {rows} each at fixed weights"


def _minibatch_update(problem: Problem, parts: list[Batch]) -> dict[str, Tensor] | None:
    """The update from minibatch gradients; None where they are no samples.

    Where no weights are kept the base gradients make room for the moments, and are computed again afterwards.
    """
    with problem.base_gradients_released() if problem.saved is not None else nullcontext():
        found = _mean_gradients(problem, parts)
    return update_from_moments(*found) if found is not None else None


def _mean_gradients(problem: Problem, parts: list[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """The means of minibatch gradients and of their squares by tensor name; None where they are no samples."""
    means = {tensor.name: torch.zeros_like(tensor.parameter) for tensor in problem.receiving}
    squares = {name: torch.zeros_like(mean) for name, mean in means.items()}

    def accumulate(tensor: TrainableTensor, gradient: Tensor) -> None:
        if tensor.name in means:
            means[tensor.name].add_(gradient, alpha=1.0 / len(parts))
            squares[tensor.name].addcmul_(gradient, gradient, value=1.0 / len(parts))

    try:
        visit_minibatches(problem, parts, accumulate)
    except MismatchError:
        return None
    return means, squares
