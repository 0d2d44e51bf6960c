"""Adjoints pulled back through one step of SGD, Adam or AdamW, by the formula of its derivative.

They equal those through torch's own step with its graph, see `DifferentiableStep`, and take a fraction of its time.
These optimizers step every entry by itself. So as many entries are taken at a time as a processor's cache holds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromage_cli.optimizers.rule import ADAM, ADAMW, SGD, Rule
from fromage_cli.probes.hypergradients.differentiable_step import (
    DifferentiableStep,
    StepAdjoint,
    StepInputs,
    begun,
)

AT_ONCE = 1 << 16
"""Entries of a tensor that are taken at a time on a processor: with all that belongs to them, two megabytes."""


def pull_back_step(
    rule: Rule, inputs: Sequence[StepInputs], weights: Sequence[Tensor], slots: Sequence[Mapping[str, Tensor]]
) -> list[StepAdjoint]:
    """The adjoints before a step, from those of each weight and slot after it.

    To save memory, these are overwritten.
    """
    if rule not in CLOSED_FORMS:
        return DifferentiableStep(rule, inputs).pull_back(weights, slots)
    with torch.no_grad():
        return [_pulled_back(rule, *each) for each in zip(inputs, weights, slots, strict=True)]


def _pulled_back(rule: Rule, inputs: StepInputs, weight: Tensor, slot: Mapping[str, Tensor]) -> StepAdjoint:
    """The adjoint before one tensor's step."""
    settings = dict(inputs.settings)
    held = begun(rule, inputs.slot, inputs.weight, settings)
    count = float(held.pop("step", 0.0)) + 1.0
    after = {name: slot[name] if name in slot else torch.zeros_like(value) for name, value in held.items()}
    whole = _Entries(inputs.weight, inputs.gradient, held, weight, after, torch.empty_like(inputs.gradient)).flat()
    size = AT_ONCE if weight.device.type == "cpu" else max(weight.numel(), 1)
    sums = [CLOSED_FORMS[rule](entries, settings, count) for entries in whole.split(size)]
    rate, decay = (math.fsum(each) for each in zip(*sums, strict=True))
    shape = inputs.weight.shape
    after = {name: value.view(shape) for name, value in whole.after_slot.items()}
    return StepAdjoint(whole.after.view(shape), whole.into_gradient.view(shape), after, rate, decay)


@dataclass(frozen=True)
class _Entries:
    """Entries of one tensor before a step, and the adjoints of what they become, which turn into those before it."""

    weight: Tensor
    gradient: Tensor
    slot: dict[str, Tensor]
    after: Tensor
    """The adjoint of the weight."""
    after_slot: dict[str, Tensor]
    into_gradient: Tensor
    """Where the adjoint of the gradient goes."""

    def flat(self) -> "_Entries":
        """The same in one dimension."""
        return self._each(lambda value: value.reshape(-1))

    def split(self, size: int) -> Iterator["_Entries"]:
        """So many at a time."""
        for start in range(0, max(self.weight.numel(), 1), size):
            yield self._each(lambda value, start=start: value[start : start + size])  # type: ignore[misc]

    def _each(self, view: Callable[[Tensor], Tensor]) -> "_Entries":
        slot, after_slot = ({k: view(v) for k, v in held.items()} for held in (self.slot, self.after_slot))
        return _Entries(
            view(self.weight), view(self.gradient), slot, view(self.after), after_slot, view(self.into_gradient)
        )


def _through_sgd(e: _Entries, settings: Mapping[str, Any], _: float) -> tuple[float, float]:
    """By rate and decay, through w' = w - rate (a b₀ + c g').

    Here g' = ±g + decay w. The buffer becomes momentum b₀ + (1 - dampening) g'.
    """
    rate, decay, sign = settings["lr"], settings["weight_decay"], -1.0 if settings.get("maximize") else 1.0
    momentum, share = settings.get("momentum", 0.0), 1.0 - settings.get("dampening", 0.0)
    a, c = (momentum, share) if momentum else (0.0, 1.0)
    if settings.get("nesterov"):
        a, c = momentum * a, 1.0 + momentum * c
    moved = torch.mul(e.gradient, sign * c).add_(e.weight, alpha=decay * c)
    gradient = torch.mul(e.after, -rate * c, out=e.into_gradient)
    if momentum:
        moved.add_(e.slot["momentum_buffer"], alpha=a)
        buffer = e.after_slot["momentum_buffer"]
        gradient.add_(buffer, alpha=share)
        buffer.mul_(momentum).add_(e.after, alpha=-rate * a)
    by_rate, by_decay = -float(torch.dot(e.after, moved)), float(torch.dot(gradient, e.weight))
    e.after.add_(gradient, alpha=decay)
    gradient.mul_(sign)
    return by_rate, by_decay


def _through_adam(e: _Entries, settings: Mapping[str, Any], count: float, *, coupled: bool) -> tuple[float, float]:
    """By rate and decay, through w' = (1 - rate decay) w - rate / c₁ m / (√v / c₂ + eps).

    m and v are the moments after the step. They are of g' = ±g + decay w where the decay is coupled, else of ±g.
    """
    rate, decay, sign = settings["lr"], settings["weight_decay"], -1.0 if settings.get("maximize") else 1.0
    beta1, beta2 = settings["betas"]
    step_size, correction = rate / (1.0 - beta1**count), math.sqrt(1.0 - beta2**count)
    gradient = e.gradient * sign if sign < 0.0 or coupled else e.gradient
    if coupled:
        gradient.add_(e.weight, alpha=decay)
    mean = e.slot["exp_avg"].lerp(gradient, 1.0 - beta1)
    square = (e.slot["exp_avg_sq"] * beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    by_mean, by_square = e.after_slot["exp_avg"], e.after_slot["exp_avg_sq"]
    largest, by_largest = square, by_square
    if settings.get("amsgrad"):
        before, by_largest = e.slot["max_exp_avg_sq"], e.after_slot["max_exp_avg_sq"]
        risen = square > before
        largest = torch.maximum(square, before)
    # where a second moment is 0 its root has no derivative: that of the smallest number takes its place
    root = largest.clamp_min_(torch.finfo(square.dtype).tiny).sqrt_()
    denominator = (root / correction).add_(settings["eps"])
    quotient = e.after / denominator
    by_rate = -float(torch.dot(quotient, mean)) / (1.0 - beta1**count)
    by_mean.add_(quotient, alpha=-step_size)
    by_largest.addcdiv_(quotient.mul_(mean), root.mul_(denominator), value=0.5 * step_size / correction)
    if settings.get("amsgrad"):
        by_square.add_(by_largest * risen)
        by_largest.mul_(~risen)
    into = torch.mul(by_mean, 1.0 - beta1, out=e.into_gradient)
    into.addcmul_(gradient, by_square, value=2.0 * (1.0 - beta2))
    by_mean.mul_(beta1)
    by_square.mul_(beta2)
    if coupled:
        by_decay = float(torch.dot(into, e.weight))
        e.after.add_(into, alpha=decay)
    else:
        along = float(torch.dot(e.after, e.weight))
        by_rate, by_decay = by_rate - decay * along, -rate * along
        e.after.mul_(1.0 - rate * decay)
    if sign < 0.0:
        into.neg_()
    return by_rate, by_decay


CLOSED_FORMS: Mapping[Rule, Callable[[_Entries, Mapping[str, Any], float], tuple[float, float]]] = {
    SGD: _through_sgd,
    ADAM: lambda e, settings, count: _through_adam(e, settings, count, coupled=True),
    ADAMW: lambda e, settings, count: _through_adam(e, settings, count, coupled=False),
}
"""By the rule of the optimizer: the adjoint through the step of some entries."""
