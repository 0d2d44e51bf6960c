"""The step that an optimizer would take next, everything included, and the matrix that its threshold is held against.

Source: Cohen et al., *Adaptive gradient methods at the edge of stability*, 2022.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.rule import ADAM, ADAMW, SGD
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.moments import (
    FIRST_STEP,
    MINIBATCHES,
    mean_gradients,
    moments_of_minibatches,
    parts_for_moments,
    spelled_parts,
)
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates, TensorState, TensorStep, tensor_step
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.shards import part_as

ANY_RATE = 1.0
"""Of a direction, whose length eta gives: no rate is asked of anyone."""


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


def next_step(matched: MatchedState) -> tuple[dict[str, Tensor], str]:
    """The u by tensor name that make w - learning rate * u the next step; and a sentence on where they come from.

    Moments that a state does not hold come from minibatch gradients. Raises MismatchError when the state does not fit
    the model.
    """
    problem, estimates, source = matched.problem, None, ""
    if "step" in (matched.optimizer.rule or SGD).slots and not matched.holds_memory:
        means, squares, source = moments_of_minibatches(problem, min(MINIBATCHES, problem.batch.size))
        estimates = {name: MomentEstimates(mean, squares[name]) for name, mean in means.items()}
        source = f"its moments from {source}"
    found = measure_next_step(matched, estimates, source)
    return {t.name: found.moved(t) for t in problem.receiving if t.name in found.steps}, found.note


def measure_next_step(
    matched: MatchedState, estimates: Mapping[str, MomentEstimates] | None = None, source: str = ""
) -> NextStep:
    """The next step with the gradient of the problem's rows; groups keep the ratio of their rates.

    `estimates` stand in where the state holds nothing; `source`: words on where they come from. A rule without memory
    needs neither. Raises MismatchError when the state does not fit the model, or is of an optimizer that maximizes.
    """
    if matched.state is not None and any(group.settings.get("maximize") for group in matched.state.groups):
        raise MismatchError(
            "The checkpoint's optimizer maximizes, so its steps raise the loss.",
            "Give a --loss with the opposite sign, and a state that was saved with maximize=False.",
        )
    problem, optimizer, known = matched.problem, matched.optimizer, matched.holds_memory
    decays, shares = matched.decays, matched.rate_shares
    steps = {}
    for tensor in problem.receiving:
        name = tensor.name
        if not matched.takes(tensor) or (known and name not in matched.members):
            continue
        state = TensorState(
            tensor.parameter.detach(),
            problem.base.gradients[name],
            decays[name],
            matched.members[name][0] if known else None,
            None if known else (estimates or {}).get(name),
        )
        step, share = tensor_step(matched.own(name) if known else optimizer, state), shares.get(name, 1.0)
        steps[name] = step if share == 1.0 else TensorStep(share * step.update, share * step.shrinkage)
    where = "the gradient of the batch" + (", without momentum" if optimizer.remembers else "")
    if known:
        kept = "moments" if "step" in (optimizer.rule or SGD).slots else "momentum"
        where = f"with the {kept} in the checkpoint"
    elif source and optimizer.remembers:
        where = source
    return NextStep(steps, f"step: {optimizer.name or SGD.name}, {where}.")


def preconditioner(matched: MatchedState) -> dict[str, Tensor] | None:
    """What Adam's state divides each tensor's gradient by; None without a state.

    P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps). Where v is 0 and the gradient is not, a layer only begins to
    move. P is then that of the next step: (1 - beta2) g^2 for v, and t + 1. AMSGrad puts its maximum in place of v.
    Raises MismatchError when the state does not fit the model.
    """
    if matched.state is None or not matched.state.has("exp_avg_sq", "step"):
        return None
    found = {}
    for tensor in matched.problem.receiving:
        slot, _ = matched.members.get(tensor.name, (None, {}))
        if slot is None:
            if tensor.name in matched.members:
                return None
            continue
        own, steps = matched.own(tensor.name), float(slot["step"])
        gradient = matched.problem.base.gradients[tensor.name]
        if own.coupled_decay:
            gradient = gradient.add(tensor.parameter.detach(), alpha=matched.decays[tensor.name])
        kept = slot.get("max_exp_avg_sq") if own.amsgrad else None
        second = part_as(gradient, slot["exp_avg_sq"] if kept is None else kept).to(gradient)
        matrix, begins = _conditioning(own, second, steps), (second == 0) & (gradient != 0)
        if steps and bool(begins.any()):
            next_one = _conditioning(own, gradient.square().mul_(1.0 - own.betas[1]), steps + 1.0)
            matrix = torch.where(begins, next_one, matrix)
        found[tensor.name] = matrix
    return found if all(bool(torch.isfinite(p).all() and (p > 0).all()) for p in found.values()) else None


def moments_not_finite(matched: MatchedState) -> list[str]:
    """The tensors whose second moments hold what is not finite."""
    squares = {name: slot["exp_avg_sq"] for name, (slot, _) in matched.members.items() if slot and "exp_avg_sq" in slot}
    return [name for name, square in squares.items() if not bool(torch.isfinite(square).all())]


def hardly_begun(matched: MatchedState) -> bool:
    """Whether Adam is before its first steps, or a whole tensor is: P then grows too fast to foretell training.

    That is while the bias correction of its momentum still more than doubles it. It is also where the gradient meets
    second moments of zero, as behind a head that started at zero.
    """
    if not matched.holds_memory:
        return True
    slots = {t.name: matched.members.get(t.name, (None, {}))[0] for t in matched.problem.receiving}
    return any(
        1.0 - matched.own(name).betas[0] ** float(slot["step"]) < 0.5
        or bool(not slot["exp_avg_sq"].any() and matched.problem.base.gradients[name].any())
        for name, slot in slots.items()
        if slot is not None
    )


def _conditioning(optimizer: Optimizer, second: Tensor, steps: float) -> Tensor:
    """Adam's P after so many steps with this second moment."""
    root = second.div(1.0 - optimizer.betas[1] ** steps).sqrt_().add_(optimizer.epsilon)
    return root.mul_(1.0 - optimizer.betas[0] ** steps)


def adam_settings(state: OptimizerState | None, declared: Given) -> Optimizer:
    """Adam where the state says that its decay is coupled, else AdamW; any state with Adam's moments serves."""
    if state is None or not state.has(*ADAM.slots):
        return find_settings(Given(ADAMW.name, ANY_RATE), None, declared)
    rule = ADAM if state.groups[0].settings.get("decoupled_weight_decay") is False else ADAMW
    return find_settings(Given(rule.name, ANY_RATE), replace(state.settings, kind=rule.name), declared)


def adam_update(
    problem: Problem, state: OptimizerState | None, declared: Given
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Adam's next u = m^ / (sqrt(v^) + eps), by tensor name, and sentences on where it comes from.

    Decay that is told to be coupled to the gradient goes through the moments and belongs to it; decoupled decay does
    not. Where no weights are kept the base gradients make room for the moments of minibatches, and are computed again
    afterwards. Raises MismatchError when the state does not fit the model.
    """
    optimizer = adam_settings(state, declared)
    if state is not None and state.has(*ADAM.slots):
        found = measure_next_step(MatchedState(problem, optimizer, state))
        updates = {name: step.update for name, step in found.steps.items()}
        return updates, (*optimizer.notes, "adam: moments from the optimizer's state in the checkpoint.")
    moments = None
    if parts := parts_for_moments(problem):
        with problem.base_gradients_released() if problem.saved is not None else nullcontext():
            moments = mean_gradients(problem, parts)
    if moments is None:
        first = measure_next_step(MatchedState(problem, optimizer))
        update, source = {name: step.update for name, step in first.steps.items()}, FIRST_STEP
    else:
        means, squares = moments
        eps, source = optimizer.epsilon, spelled_parts(parts)
        update = {name: mean.div_(squares[name].sqrt_().add_(eps)) for name, mean in means.items()}  # over both
    return update, (f"adam: the checkpoint holds no moments; they come from {source}.",)
