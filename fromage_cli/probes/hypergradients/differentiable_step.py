"""One optimizer step with its graph, and adjoints pulled back through it.

Torch's classes take it with `differentiable=True`, those of `optim` by themselves.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromage_cli.optim.tensorwise import TensorwiseOptimizer
from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, LARS, LION, SGD, Rule

TINY = 1e-300
"""Stands for a weight decay of 0, which torch leaves out, and with it the derivative: no number changes by it."""


def differentiable(rule: Rule) -> bool:
    """Whether a step of the optimizer can be differentiated here."""
    return rule in (SGD, ADAM, ADAMW, LION, FROMAGE, LARS)


def through_a_sign(rule: Rule | None) -> bool:
    """Whether its step takes a sign: derivatives through the gradient are then 0, and false."""
    return rule is not None and rule.step_size == "sign"


@dataclass(frozen=True)
class StepInputs:
    """What an optimizer's step of one tensor starts from."""

    weight: Tensor
    gradient: Tensor
    slot: Mapping[str, Any]
    """What the optimizer remembers of it."""
    settings: Mapping[str, Any]
    """Of the class that steps, rate and weight decay among them; a weight decay of None is no setting of it."""


@dataclass(frozen=True)
class StepAdjoint:
    """The derivative of one number by what a step of one tensor starts from."""

    weight: Tensor
    gradient: Tensor
    slot: dict[str, Tensor]
    rate: float
    decay: float


class DifferentiableStep:
    """One optimizer step with its graph, each tensor in a group of its own."""

    def __init__(self, rule: Rule, inputs: Sequence[StepInputs]) -> None:
        """Takes the step."""
        self.begins = [_Begin(rule, each) for each in inputs]
        own = issubclass(rule.load_class(), TensorwiseOptimizer)
        with torch.enable_grad():
            self.ends = (self._own if own else self._torchs)(rule)

    def _torchs(self, rule: Rule) -> list[tuple[Tensor, Mapping[str, Any]]]:
        """The next weights and slots by a class of torch."""
        moved = [begin.weight.clone() for begin in self.begins]
        groups = [{"params": [each], **begin.group} for each, begin in zip(moved, self.begins, strict=True)]
        optimizer = rule.load_class()(groups, differentiable=True)  # type: ignore[call-arg]
        for each, begin in zip(moved, self.begins, strict=True):
            each.grad, optimizer.state[each] = begin.gradient.clone(), begin.remembered
        optimizer.step()
        return [(each, optimizer.state[each]) for each in moved]

    def _own(self, rule: Rule) -> list[tuple[Tensor, Mapping[str, Any]]]:
        """The same by a class of `optim`."""
        keys = [begin.weight.detach().requires_grad_() for begin in self.begins]
        groups = [{"params": [key], **begin.group} for key, begin in zip(keys, self.begins, strict=True)]
        optimizer = rule.load_class()(groups)  # type: ignore[call-arg]
        assert isinstance(optimizer, TensorwiseOptimizer)
        found = []
        for key, begin, group in zip(keys, self.begins, optimizer.param_groups, strict=True):
            optimizer.state[key] = begin.remembered
            wide = begin.weight.to(torch.float64), begin.gradient.to(torch.float64)
            found.append((optimizer.following(key, *wide, group).to(key.dtype), optimizer.state[key]))
        return found

    def pull_back(self, weights: Sequence[Tensor], slots: Sequence[Mapping[str, Tensor]]) -> list[StepAdjoint]:
        """The adjoints before the step, from those of each weight and slot after it."""
        ends, given = [moved for moved, _ in self.ends], [*weights]
        for (_, state), slot in zip(self.ends, slots, strict=True):
            held = [key for key in slot if isinstance(state[key], Tensor) and state[key].requires_grad]
            ends += [state[key] for key in held]
            given += [slot[key] for key in held]
        leaves = [leaf for begin in self.begins for leaf in begin.leaves]
        slopes = iter(torch.autograd.grad(ends, leaves, given, materialize_grads=True))
        return [
            StepAdjoint(
                next(slopes),
                next(slopes),
                {key: next(slopes) for key in begin.slot},
                float(next(slopes)),
                float(next(slopes)),
            )
            for begin in self.begins
        ]


class _Begin:
    """The leaves of one tensor's step."""

    def __init__(self, rule: Rule, inputs: StepInputs) -> None:
        self.weight, self.gradient = _leaf(inputs.weight), _leaf(inputs.gradient)
        self.rate = _scalar(inputs.settings["lr"], inputs.weight)
        decay = inputs.settings["weight_decay"]
        self.decay = _scalar(decay or TINY, inputs.weight)
        self.group = {**inputs.settings, "lr": self.rate, "weight_decay": self.decay}
        if decay is None:
            del self.group["weight_decay"]
        held = _with_derivatives(rule, begun(rule, inputs.slot, inputs.weight, self.group))
        self.slot = {key: _leaf(value) for key, value in held.items() if _moves(key, value)}
        self.remembered = {k: self.slot[k].clone() if k in self.slot else copy(value) for k, value in held.items()}

    @property
    def leaves(self) -> list[Tensor]:
        """In the order of a StepAdjoint's fields."""
        return [self.weight, self.gradient, *self.slot.values(), self.rate, self.decay]


def _moves(name: str, value: Any) -> bool:
    """Whether a slot's value is one that gradients flow through; a count of steps is none."""
    return name != "step" and isinstance(value, Tensor) and value.is_floating_point()


def begun(rule: Rule, slot: Mapping[str, Any], weight: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    """A slot as the step begins; what is not there yet starts from 0.

    So does a momentum: torch would copy the first gradient without its graph, and dampening begins with the second
    step.
    """
    found = dict(slot)
    if rule.averages == "momentum" and settings.get("momentum") and "momentum_buffer" not in found:
        found["momentum_buffer"] = torch.zeros_like(weight)
        settings["dampening"] = 0.0
    if "exp_avg_sq" in rule.slots:
        found = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")} | {"step": 0} | found
        if settings.get("amsgrad"):
            found.setdefault("max_exp_avg_sq", torch.zeros_like(weight))
    return found


def _with_derivatives(rule: Rule, slot: dict[str, Any]) -> dict[str, Any]:
    """The slot such that torch's step has derivatives.

    Counts are in float64, for bias corrections are powers of them. Where a second moment is 0 its root has no
    derivative: the smallest number takes its place.
    """
    found = dict(slot)
    if "step" in found and rule.implementation.startswith("torch."):
        found["step"] = torch.tensor(float(found["step"]), dtype=torch.float64)
    for name in found.keys() & {"exp_avg_sq", "max_exp_avg_sq"}:
        found[name] = found[name].clamp_min(torch.finfo(found[name].dtype).tiny)
    return found


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_()


def _scalar(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=like.device, requires_grad=True)
