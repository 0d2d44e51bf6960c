"""An optimizer with its state, matched to the tensors of a model once for each command."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

from fromage_cli.checkpoints import OptimizerState, match_parameters
from fromage_cli.checkpoints.optimizers.optimizer_state import UnreadSlot, slot_shape
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.rule import SGD
from fromage_cli.optimizers.settings import MANY_STEPS, Optimizer, corrects_bias
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor, named_weights, unwrapped


class MatchedState:
    """One optimizer on one problem: what its state holds of each tensor, found when it is first asked for.

    Everything here raises MismatchError where the state does not fit the model.
    """

    def __init__(self, problem: Problem, optimizer: Optimizer, state: OptimizerState | None = None) -> None:
        self.problem, self.optimizer, self.state = problem, optimizer, state

    def on(self, rows: Problem) -> "MatchedState":
        """The same for other rows of the same model, with what has been found already."""
        other = copy(self)
        other.problem = rows
        return other

    def anew(self, problem: Problem) -> "MatchedState":
        """The same groups on other weights of the same network, of which nothing is remembered."""
        if self.state is None:
            return MatchedState(problem, self.optimizer)
        other = MatchedState(problem, self.optimizer, replace(self.state, slots={}))
        other.__dict__.update(numbers=self.numbers, members_known=self.members_known)  # from slots, which are gone
        return other

    def takes(self, tensor: TrainableTensor) -> bool:
        """Whether the rule moves the tensor: Muon takes matrices only."""
        return not (self.optimizer.rule or SGD).matrices_only or tensor.parameter.dim() == 2

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The parameter number of each tensor in the state; empty without one.

        Matched are the trainable tensors, or all of them where an optimizer of more was given frozen ones too; of
        matrices, those that a state for them names, where it does.
        """
        if self.state is None:
            return {}
        tensors, matrices_only = self.problem.trainable, (self.optimizer.rule or SGD).matrices_only
        if matrices_only and self.state.whole is None:
            tensors = [tensor for tensor in tensors if self.takes(tensor)]
            named = {name for group in self.state.groups for name in group.names or ()}
            tensors = [tensor for tensor in tensors if tensor.name in named] or tensors
        held = {tensor.name: tuple(tensor.parameter.shape) for tensor in tensors}
        everything = {n: tuple(value.shape) for n, value in named_weights(unwrapped(self.problem.model))}
        given = len((self.state.whole or self.state).numbers)
        frozen_too = len(held) < given <= len(everything) and not (matrices_only and self.state.whole is None)
        return match_parameters(self.state, everything if frozen_too else held)

    @cached_property
    def members_known(self) -> bool:
        """Whether it is known which tensors each group holds: by shapes of slots or names, or by the groups' rule."""
        if self.state is None or len(self.state.groups) == 1 or self.state.members_known:
            return self.state is not None
        try:
            return bool(self.numbers)
        except MismatchError:  # more than one way
            return False

    @cached_property
    def members(self) -> Mapping[str, tuple[Mapping[str, Any] | None, Mapping[str, Any]]]:
        """What the state remembers of each tensor, None of one that was never updated, and its group's settings."""
        if self.state is None:
            return {}
        settings = {number: group.settings for group in self.state.groups for number in group.numbers}
        found = {}
        for tensor in self.problem.trainable:
            if tensor.name not in self.numbers:
                continue
            number, shape = self.numbers[tensor.name], tuple(tensor.parameter.shape)
            slot = self.state.slots.get(number)
            stored = slot_shape(slot) if slot is not None else None
            if stored not in (None, shape):
                raise MismatchError(
                    f"The optimizer's state for {tensor.name!r} has shape {list(stored or ())}, but the tensor "
                    f"has {list(shape)}.",
                    "The state belongs to another model. To go without it, give --optimizer-state none.",
                )
            if slot is not None and slot.get("step") is not None and not corrects_bias(settings[number]):
                slot = UnreadSlot({**(slot.stored if isinstance(slot, UnreadSlot) else slot), "step": MANY_STEPS})
            found[tensor.name] = slot, settings[number]
        return found

    def own(self, name: str) -> Optimizer:
        """The rule with the settings of a tensor's group."""
        return self.optimizer.of_group(self.members[name][1]) if name in self.members else self.optimizer

    @property
    def holds_memory(self) -> bool:
        """Whether the state holds what the rule remembers; False for a rule that remembers nothing."""
        if self.state is None or not self.optimizer.remembers:
            return False
        slots = (self.optimizer.rule or SGD).slots
        if "step" in slots:
            return self.state.has(*slots)
        return any(kept.get(slot) is not None for slot in slots for kept in self.state.slots.values())

    @property
    def decays(self) -> Mapping[str, float]:
        """The weight decay of each trainable tensor; the largest for all where members are not told."""
        everywhere = {tensor.name: self.optimizer.weight_decay for tensor in self.problem.trainable}
        if self.optimizer.decay_given or self.state is None or not self.members_known:
            return everywhere
        return everywhere | {n: float(group.get("weight_decay") or 0.0) for n, (_, group) in self.members.items()}

    @property
    def rate_shares(self) -> Mapping[str, float]:
        """Each tensor's rate over the highest of any group; empty where all are the same, or members are not told."""
        if self.state is None:
            return {}
        shares = group_shares(self.state)
        if len(set(shares)) < 2 or not self.members_known:
            return {}
        by_number = {
            number: share for group, share in zip(self.state.groups, shares, strict=True) for number in group.numbers
        }
        return {name: by_number[number] for name, number in self.numbers.items() if name in self.members}

    @property
    def lowest_rate(self) -> float | None:
        """That of the groups, where their rates differ; the optimizer's own is the highest."""
        rate, shares = self.optimizer.learning_rate, self.rate_shares
        return min(shares.values()) * rate if shares and rate is not None else None


def group_shares(state: OptimizerState) -> tuple[float, ...]:
    """Each group's rate over the highest of any; those they began with count where all are 0 now."""
    for name in ("lr", "initial_lr"):
        rates = [float(group.settings.get(name) or 0.0) for group in state.groups]
        if max(rates) > 0.0:
            return tuple(rate / max(rates) for rate in rates)
    return (1.0,) * len(state.groups)


def match_state(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> MatchedState:
    """The optimizer on a problem with a state, where that holds what this optimizer remembers; else without one."""
    return MatchedState(problem, optimizer, state.serving(optimizer.name) if state is not None else None)
