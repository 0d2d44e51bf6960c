"""One optimizer step of one tensor with its graph, and adjoints pulled back through it.

Torch's classes take it with `differentiable=True`, those of `optim` by themselves.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from fromage_cli.optim.tensorwise import TensorwiseOptimizer
from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, LARS, LION, SGD, Rule

TINY = 1e-300
"""Stands for a weight decay of 0: no number changes by it."""


def differentiable(rule: Rule) -> bool:
    """Whether a step of the optimizer can be differentiated here."""
    return rule in (SGD, ADAM, ADAMW, LION, FROMAGE, LARS)


def through_a_sign(rule: Rule | None) -> bool:
    """Whether its step takes a sign, so that the derivative by all that acts through the gradient is 0 and false."""
    return rule is not None and rule.step_size == "sign"


class DifferentiableStep:
    """One optimizer step of one tensor with its graph: torch's own differentiable step, or that of the classes here."""

    def __init__(
        self,
        rule: Rule,
        settings: Mapping[str, Any],
        weight: Tensor,
        gradient: Tensor,
        slot: Mapping[str, Any],
    ) -> None:
        """Takes the step; `settings` are those of the class that steps, rate and weight decay among them."""
        self.weight, self.gradient = _leaf(weight), _leaf(gradient)
        self.rate = _scalar(settings["lr"], weight)
        # torch leaves decay out where it is 0, and with it the derivative
        self.decay = _scalar(settings["weight_decay"] or TINY, weight)
        group = {**settings, "lr": self.rate, "weight_decay": self.decay}
        if settings["weight_decay"] is None:
            del group["weight_decay"]
        remembered = _prepared(rule, slot, weight, group)
        self.slot = {key: _leaf(value) for key, value in remembered.items() if _moves(key, value)}
        kept = {key: self.slot[key].clone() if key in self.slot else copy(value) for key, value in remembered.items()}
        with torch.enable_grad():
            own = issubclass(rule.load_class(), TensorwiseOptimizer)
            self.moved, self.state = (self._own if own else self._torchs)(rule, group, kept)

    def _torchs(self, rule: Rule, group: dict[str, Any], slot: dict[str, Any]) -> tuple[Tensor, Mapping[str, Any]]:
        """The next weight and slot by a class of torch."""
        moved = self.weight.clone()
        moved.grad = self.gradient.clone()
        optimizer = rule.load_class()([{"params": [moved], **group}], differentiable=True)  # type: ignore[call-arg]
        optimizer.state[moved] = slot
        optimizer.step()
        return moved, optimizer.state[moved]

    def _own(self, rule: Rule, group: dict[str, Any], slot: dict[str, Any]) -> tuple[Tensor, Mapping[str, Any]]:
        """The same by a class of `optim`."""
        key = self.weight.detach().requires_grad_()
        optimizer = rule.load_class()([{"params": [key], **group}])  # type: ignore[call-arg]
        assert isinstance(optimizer, TensorwiseOptimizer)
        optimizer.state[key] = slot
        wide = self.weight.to(torch.float64), self.gradient.to(torch.float64)
        moved = optimizer.following(key, *wide, optimizer.param_groups[0])
        return moved.to(self.weight.dtype), optimizer.state[key]

    def pull_back(
        self, weight: Tensor, slot: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], float, float]:
        """The adjoints of weight, gradient, slot, rate and decay, from those of the weight and slot after the step."""
        ends, given = [self.moved], [weight]
        for key, value in self.state.items():
            if key in slot and isinstance(value, Tensor) and value.requires_grad:
                ends.append(value)
                given.append(slot[key])
        begins = [self.weight, self.gradient, *self.slot.values(), self.rate, self.decay]
        weight, gradient, *slots, rate, decay = torch.autograd.grad(ends, begins, given, materialize_grads=True)
        return weight, gradient, dict(zip(self.slot, slots, strict=True)), float(rate), float(decay)


def _moves(name: str, value: Any) -> bool:
    """Whether a slot's value is one that gradients flow through; a count of steps is none."""
    return name != "step" and isinstance(value, Tensor) and value.is_floating_point()


def _prepared(rule: Rule, slot: Mapping[str, Any], weight: Tensor, settings: dict[str, Any]) -> dict[str, Any]:
    """A slot for the differentiable step, as the step begins.

    Counts are in float64, for bias corrections are powers of them. A momentum that is not there yet starts from 0,
    for torch would copy the first gradient without its graph, and dampening begins with the second step. Where a second
    moment is 0 its root has no derivative: the smallest number takes its place.
    """
    found = dict(slot)
    if rule.averages == "momentum" and settings.get("momentum") and "momentum_buffer" not in found:
        found["momentum_buffer"] = torch.zeros_like(weight)
        settings["dampening"] = 0.0
    if "exp_avg_sq" in rule.slots:
        found = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")} | {"step": 0} | found
        if settings.get("amsgrad"):
            found.setdefault("max_exp_avg_sq", torch.zeros_like(weight))
        if rule.implementation.startswith("torch."):
            found["step"] = torch.tensor(float(found["step"]), dtype=torch.float64)
        for name in ("exp_avg_sq", "max_exp_avg_sq"):
            if name in found:
                found[name] = found[name].clamp_min(torch.finfo(weight.dtype).tiny)
    return found


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def _scalar(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=like.device, requires_grad=True)
