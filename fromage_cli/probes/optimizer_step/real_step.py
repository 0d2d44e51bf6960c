"""What one optimizer's next step makes of one tensor, by the class that steps: torch's own, or the one in `optim`.

w - learning rate * (update + shrinkage * w): decoupled decay is kept apart, and Fromage's prefactor is left out.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fromage_cli.optim import LAMB
from fromage_cli.optim.tensorwise import TensorwiseOptimizer
from fromage_cli.optimizers.rule import SGD, Rule
from fromage_cli.optimizers.settings import MANY_STEPS, Optimizer
from fromage_cli.shards import is_sharded, part_as, whole
from fromage_cli.theory.conversions import stationary_gain

SMALL_RATE = 2.0**-24
"""Of a rule that caps its rate in the course of training; a power of 2, so that dividing by it rounds nothing."""


@dataclass(frozen=True)
class MomentEstimates:
    """Means over minibatch gradients at fixed weights, which stand in for what an optimizer would remember."""

    mean: Tensor
    """Of the gradients."""
    square: Tensor | None = None
    """Of their squares."""


@dataclass(frozen=True)
class TensorState:
    """One tensor with everything that its next step depends on."""

    weight: Tensor
    gradient: Tensor
    decay: float = 0.0
    slot: Mapping[str, Any] | None = None
    """What the optimizer remembers; None before its first step."""
    estimates: MomentEstimates | None = None
    """What stands in where a slot lacks it."""


@dataclass(frozen=True)
class TensorStep:
    """How one tensor would move, per unit of learning rate."""

    update: Tensor
    """Everything but decoupled decay."""
    shrinkage: float = 0.0
    """Decoupled decay's share of the weights."""


def tensor_step(optimizer: Optimizer, tensor: TensorState) -> TensorStep:
    """The next step of one tensor under the optimizer's rule, in the precision of its gradient."""
    rule = optimizer.rule or SGD
    if rule.takes_whole_tensors and is_sharded(tensor.gradient):
        step = tensor_step(optimizer, _put_together(tensor))
        return TensorStep(part_as(tensor.gradient, step.update), step.shrinkage)
    stands_in = tensor.estimates if not holds(rule, tensor.slot) else None
    settings = {**optimizer.arguments, "lr": 1.0, "weight_decay": 0.0}
    if rule.has("trust_clip") and rule.decay == "coupled":
        settings["trust_clip"] = False  # it compares with the rate, which is not known here
    if rule.decay == "rescaled":
        return _rescaled_step(rule, tensor, stands_in, settings)
    shrinkage, coupled = (tensor.decay, 0.0) if rule.decay == "decoupled" else (0.0, tensor.decay)
    if rule.decay is None:
        coupled = 0.0
    if rule.averages == "betas" and stands_in is not None and stands_in.square is not None:
        mean = stands_in.mean.add(tensor.weight, alpha=coupled)
        return TensorStep(mean.div_(stands_in.square.sqrt().add_(settings["eps"])), shrinkage)
    if rule.averages == "momentum" and stands_in is not None and optimizer.momentum:
        plain = _update(rule, tensor, None, coupled, {**settings, "momentum": 0.0, "nesterov": False})
        filled = stationary_gain(optimizer.momentum, optimizer.dampening)
        return TensorStep((1.0 + optimizer.momentum * filled if optimizer.nesterov else filled) * plain, shrinkage)
    slot = tensor.slot if holds(rule, tensor.slot) else _filled(rule, stands_in)
    return TensorStep(_update(rule, tensor, slot, coupled, settings), shrinkage)


def _put_together(tensor: TensorState) -> TensorState:
    """The same of a tensor that is spread over ranks, on every rank whole."""
    estimates = tensor.estimates
    if estimates is not None:
        square = None if estimates.square is None else whole(estimates.square)
        estimates = MomentEstimates(whole(estimates.mean), square)
    return replace(tensor, weight=whole(tensor.weight), gradient=whole(tensor.gradient), estimates=estimates)


def holds(rule: Rule, slot: Mapping[str, Any] | None) -> bool:
    """Whether a slot holds what the rule remembers of its tensor."""
    return slot is not None and all(slot.get(name) is not None for name in rule.slots)


def load_slot(slot: Mapping[str, Any], like: Tensor, rule: Rule, amsgrad: bool = False) -> dict[str, Any]:
    """A slot as the rule's class keeps it, where a tensor lies and in its precision.

    Torch's classes get copies, since they step in place, and count steps in tensors.
    AMSGrad that was switched on since begins with the present second moment as the largest.
    """
    kept: dict[str, Any] = {}
    torchs = rule.implementation.startswith("torch.")
    for name, value in slot.items():
        if name == "step":
            kept[name] = torch.tensor(float(value)) if torchs else int(value)
        elif isinstance(value, Tensor) and value.is_floating_point():
            own = part_as(like, value.detach()) if value.shape == like.shape else value.detach()
            kept[name] = own.to(device=like.device, dtype=like.dtype, copy=torchs)
        else:
            kept[name] = value.detach().clone() if isinstance(value, Tensor) else copy(value)
    if amsgrad and "exp_avg_sq" in kept:
        kept.setdefault("max_exp_avg_sq", torch.zeros_like(kept["exp_avg_sq"]))
    return kept


def _update(
    rule: Rule, tensor: TensorState, slot: Mapping[str, Any] | None, coupled: float, settings: dict[str, Any]
) -> Tensor:
    """The u that the class makes of the tensor; its copy starts from zero, so that the step from there is -u exactly.

    `coupled`: the decay that is part of the gradient.
    """
    if issubclass(rule.load_class(), TensorwiseOptimizer):
        group = {**settings, "weight_decay": coupled}
        optimizer = _restored(rule, tensor.weight, group, load_slot(slot or {}, tensor.gradient, rule))
        assert isinstance(optimizer, TensorwiseOptimizer)
        return optimizer.update(tensor.weight, tensor.weight, tensor.gradient, group).to(tensor.gradient.dtype)
    place = torch.zeros_like(tensor.gradient)
    place.grad = tensor.gradient.add(tensor.weight, alpha=coupled) if coupled else tensor.gradient
    rate = SMALL_RATE if rule.reads_weights else 1.0
    if rule.reads_weights:
        # Adafactor steps by max(eps2, root mean square) of the weights: with that as eps2 a zero moves as they do.
        size = torch.linalg.vector_norm(tensor.weight, dtype=torch.float64).item() / max(place.numel(), 1) ** 0.5
        settings = {**settings, "eps": (settings["eps"][0], max(settings["eps"][1], size))}
    kept = load_slot(slot or {}, tensor.gradient, rule, bool(settings.get("amsgrad")))
    stepping = _restored(rule, place, {**settings, "lr": rate}, kept)
    with torch.no_grad():
        inspect.unwrap(type(stepping).step)(stepping)  # without the decorators, which import torch's compiler too
    return place.div_(-rate)


def _restored(
    rule: Rule, parameter: Tensor, settings: Mapping[str, Any], slot: dict[str, Any]
) -> torch.optim.Optimizer:
    """The rule's class with one tensor, made as unpickling makes it: its constructor imports torch's compiler (1 s)."""
    stepping_class = rule.load_class()
    arguments = inspect.signature(stepping_class).parameters.values()
    group = {argument.name: argument.default for argument in arguments} | dict(settings)
    group |= {"params": [parameter], "foreach": False}  # one tensor at a time gathers no others
    restored: torch.optim.Optimizer = stepping_class.__new__(stepping_class)
    state = defaultdict(dict, {parameter: slot} if slot else {})
    restored.__setstate__({"defaults": {}, "state": state, "param_groups": [group]})
    return restored


def _filled(rule: Rule, estimates: MomentEstimates | None) -> dict[str, Any] | None:
    """A slot that holds estimates as what long training remembers; None without any."""
    if estimates is None:
        return None
    if "step" not in rule.slots:
        return dict.fromkeys(rule.slots, estimates.mean)
    square = estimates.square
    if square is None:
        return None
    if square.dim() < 2:
        return {"step": MANY_STEPS, "variance": square}
    return {"step": MANY_STEPS, "row_var": square.mean(-1, keepdim=True), "col_var": square.mean(-2, keepdim=True)}


def _rescaled_step(
    rule: Rule, tensor: TensorState, estimates: MomentEstimates | None, settings: dict[str, Any]
) -> TensorStep:
    """LAMB's: the update by its moments and the decay, together brought to the norm of the weights."""
    slot = tensor.slot if tensor.slot is not None and holds(rule, tensor.slot) else {}
    optimizer = _restored(rule, tensor.weight, settings, load_slot(slot, tensor.gradient, rule))
    assert isinstance(optimizer, LAMB)
    if estimates is not None and estimates.square is not None:
        update = estimates.mean / estimates.square.sqrt().add_(settings["eps"])
    else:
        update = optimizer.update_by_moments(tensor.weight, tensor.gradient, settings)
        optimizer.state.clear()  # two tensors that nothing needs any more
    ratio = float(optimizer.trust_ratio(tensor.weight, update.add(tensor.weight, alpha=tensor.decay), settings))
    return TensorStep(update.mul_(ratio), ratio * tensor.decay)
