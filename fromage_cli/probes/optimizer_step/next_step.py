"""The step that an optimizer would take next, everything included, and the matrix that its threshold is held against.

Source: Cohen et al., *Adaptive gradient methods at the edge of stability*, 2022; for the rules see `update_rules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.checkpoints import OptimizerState, match_parameters
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.rule import SGD
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.moments import (
    EPSILON,
    MINIBATCHES,
    held_shapes,
    holds_moments,
    moments_of_minibatches,
    slots_by_name,
)
from fromage_cli.probes.optimizer_step.update_rules import Memory, Place, TensorStep, moves, tensor_step
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor


@dataclass(frozen=True)
class NextStep:
    """How every tensor would move: w - learning rate * (update + shrinkage * w)."""

    steps: Mapping[str, TensorStep]
    """By name; a tensor that the rule does not cover is missing."""
    note: str
    """Where they come from."""

    def moved(self, tensor: TrainableTensor) -> Tensor:
        """The u of one tensor, decay included."""
        step = self.steps[tensor.name]
        return step.update.add(tensor.parameter.detach(), alpha=step.shrinkage) if step.shrinkage else step.update


def next_step(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> tuple[dict[str, Tensor], str]:
    """The u by tensor name that make w - learning rate * u the next step; and a sentence on where they come from.

    Raises MismatchError when the state does not fit the model.
    """
    needs = optimizer.rule is not None and optimizer.rule.averages == "betas" and not holds_moments(state)
    memory, note = _memory_of_minibatches(problem) if needs else (None, "")
    found = measure_next_step(problem, optimizer, state, memory, note)
    return {t.name: found.moved(t) for t in problem.receiving if t.name in found.steps}, found.note


def measure_next_step(
    problem: Problem,
    optimizer: Optimizer,
    state: OptimizerState | None,
    memory: Mapping[str, Memory] | None = None,
    source: str = "",
) -> NextStep:
    """The next step with the gradient of the problem's rows; groups keep the ratio of their rates.

    `memory` stands in where the state holds nothing; `source`: words on where it comes from. A rule without memory
    needs neither. Raises MismatchError when the state does not fit the model, or is of an optimizer that maximizes.
    """
    if state is not None and any(group.settings.get("maximize") for group in state.groups):
        raise MismatchError(
            "The checkpoint's optimizer maximizes: its steps go up the loss.",
            "Give a --loss of the opposite sign, and a state that was saved with maximize=False.",
        )
    decay, shares = decays(problem, optimizer, state), rate_shares(problem, optimizer, state)
    covered = [tensor for tensor in problem.receiving if moves(optimizer, tensor.parameter)]
    known = holds_memory(optimizer, state)
    slots = slots_by_name(problem, state, covers(optimizer)) if state is not None and known else {}
    steps = {}
    for tensor in covered:
        if slots and tensor.name not in slots:
            continue
        slot, settings = slots.get(tensor.name, (None, {}))
        place = Place(
            tensor.parameter.detach(),
            problem.base.gradients[tensor.name],
            decay[tensor.name],
            slot,
            settings,
            None if known else (memory or {}).get(tensor.name),
        )
        steps[tensor.name] = _scaled(tensor_step(optimizer.of_group(settings), place), shares.get(tensor.name, 1.0))
    return NextStep(steps, f"step: {optimizer.name or SGD.name}, {_source(optimizer, known, source)}.")


def _scaled(step: TensorStep, share: float) -> TensorStep:
    return step if share == 1.0 else TensorStep(share * step.update, share * step.shrinkage)


def _source(optimizer: Optimizer, known: bool, source: str) -> str:
    """Where the step comes from, in words."""
    if known:
        kept = "moments" if "step" in (optimizer.rule or SGD).slots else "momentum"
        return f"with the {kept} in the checkpoint"
    if source and optimizer.remembers:
        return source
    return "the gradient of the batch, no momentum kept" if optimizer.remembers else "the gradient of the batch"


def holds_memory(optimizer: Optimizer, state: OptimizerState | None) -> bool:
    """Whether the state holds what the rule remembers; False for a rule that remembers nothing."""
    if state is None or not optimizer.remembers:
        return False
    slots = (optimizer.rule or SGD).slots
    if "step" in slots:
        return state.has(*slots)
    return any(kept.get(slot) is not None for slot in slots for kept in state.slots.values())


def covers(optimizer: Optimizer) -> str:
    """Which tensors a rule takes: `matrices`, or `all`."""
    return "matrices" if optimizer.rule is not None and optimizer.rule.matrices_only else "all"


def decays(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> dict[str, float]:
    """The weight decay of each tensor that receives a gradient; the largest for all where members are not told."""
    everywhere = {tensor.name: optimizer.weight_decay for tensor in problem.receiving}
    if optimizer.decay_given or state is None or not state.members_told:
        return everywhere
    settings = slots_by_name(problem, state, covers(optimizer))
    return everywhere | {name: float(group.get("weight_decay") or 0.0) for name, (_, group) in settings.items()}


def rate_shares(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> dict[str, float]:
    """Each tensor's rate over the highest of any group; empty where all are the same, or members are not told."""
    rates = {float(group.settings.get("lr") or 0.0) for group in state.groups} if state is not None else set()
    if state is None or len(rates) < 2 or not state.members_told:
        return {}
    settings = slots_by_name(problem, state, covers(optimizer))
    return {name: float(group.get("lr") or 0.0) / max(rates) for name, (_, group) in settings.items()}


def group_numbers(problem: Problem, optimizer: Optimizer, state: OptimizerState) -> dict[str, int]:
    """The parameter number of each tensor in the optimizer's state; empty where members are not told.

    Raises MismatchError when the state does not fit the model.
    """
    if len(state.groups) > 1 and not state.members_told:
        return {}
    return match_parameters(state, held_shapes(problem, state, covers(optimizer)))


def _memory_of_minibatches(problem: Problem) -> tuple[dict[str, Memory], str]:
    means, squares, source = moments_of_minibatches(problem, min(MINIBATCHES, problem.batch.size))
    return {name: Memory(mean, squares[name]) for name, mean in means.items()}, f"its moments from {source}"


def preconditioner(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> dict[str, Tensor] | None:
    """P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps) of each tensor, from Adam's state; None without one.

    AMSGrad puts its maximum in place of v. Raises MismatchError when the state does not fit the model.
    """
    if state is None or not state.has("exp_avg_sq", "step"):
        return None
    found = {}
    for name, (slot, settings) in slots_by_name(problem, state).items():
        if slot is None:
            return None
        beta1, beta2 = optimizer.of_group(settings).betas
        steps = float(slot["step"])
        kept = slot.get("max_exp_avg_sq") if settings.get("amsgrad") else None
        second = (slot["exp_avg_sq"] if kept is None else kept).to(problem.base.gradients[name])
        root = second.div(1.0 - beta2**steps).sqrt_().add_(float(settings.get("eps", EPSILON)))
        found[name] = root.mul_(1.0 - beta1**steps)
    return found if all(bool(torch.isfinite(p).all() and (p > 0).all()) for p in found.values()) else None
