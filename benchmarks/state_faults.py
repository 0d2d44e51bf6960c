"""Faults of the study of `state`: what is done to a run's checkpoints, and to the way in which it is resumed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from state_recipes import GPT95, GPT999
from state_runs import Recipe
from torch import Tensor

Saved = dict[str, Any]
SPACINGS = {"wide": (40, 140, 240), "close": (200, 220, 240)}
"""Steps of three checkpoints of which the last one has the fault."""
STEPS = (40, 140, 200, 220, 240)
FAULTY = 240

BASES = [
    Recipe("adamw-95", "gpt", "adamw", 3e-3, GPT95, schedule="cosine", length=300, saved=STEPS),
    Recipe("adamw-999", "gpt", "adamw", 3e-3, GPT999, saved=STEPS),
    Recipe("adamw-bf16", "gpt", "adamw", 3e-3, GPT95, precision="bf16", saved=STEPS),
    Recipe("adam", "mlp", "adam", 2e-3, {"weight_decay": 1e-3}, {"depth": 4}, saved=STEPS),
    Recipe("lion", "gpt", "lion", 3e-4, {"weight_decay": 0.1}, schedule="cosine", length=300, saved=STEPS),
    Recipe("sgd", "mlp", "sgd", 0.05, {"momentum": 0.9}, {"depth": 4}, schedule="cosine", length=300, saved=STEPS),
]
"""Runs whose checkpoints get the faults; each has two matrices of the same shape."""


@dataclass(frozen=True)
class Fault:
    """What is done to the last of three checkpoints."""

    name: str
    edit: Callable[[Sequence[Saved]], list[str]]
    """Changes the last one, and tells the tensors that it changed; none where it is all of them."""
    named: tuple[str, ...]
    """The findings of which one must name it; none where gradients could have made the same."""
    second_moments: bool = False
    """Whether only an optimizer with second moments can have it."""
    master: bool = False
    """Whether only weights in float32 can have it."""


def slots(saved: Saved) -> dict[str, dict[str, Tensor]]:
    """The optimizer's slot of every tensor: of one group in the network's order, of two with matrices first."""
    names, groups = list(saved["model"]), saved["optimizer"]["param_groups"]
    if len(groups) == 2:
        names.sort(key=lambda name: saved["model"][name].ndim < 2)
    return {name: saved["optimizer"]["state"][place] for place, name in enumerate(names)}


def moments(slot: dict[str, Tensor]) -> list[str]:
    """The names of a slot's moments, the first moment first."""
    return [name for name in ("exp_avg", "momentum_buffer", "exp_avg_sq") if name in slot]


def alike(saved: Saved) -> list[str]:
    """The first two matrices of the same shape."""
    matrices = [name for name, weight in saved["model"].items() if weight.ndim > 1]
    shapes = {saved["model"][name].shape: name for name in reversed(matrices)}
    return next([shapes[saved["model"][name].shape], name] for name in matrices if name not in shapes.values())


def middle(saved: Saved) -> str:
    """A matrix between the first and the last."""
    return alike(saved)[0]


def swapped(series: Sequence[Saved], count: int) -> list[str]:
    """Exchange so many moments of two layers."""
    names, found = alike(series[-1]), slots(series[-1])
    one, other = (found[name] for name in names)
    for moment in moments(one)[:count]:
        one[moment], other[moment] = other[moment], one[moment]
    return names


def zeroed(series: Sequence[Saved], count: int) -> list[str]:
    """Take so many moments of all layers away, the count of steps kept."""
    for slot in slots(series[-1]).values():
        for moment in moments(slot)[:count]:
            slot[moment] = torch.zeros_like(slot[moment])
    return []


def older(series: Sequence[Saved], back: int, counts: bool) -> list[str]:
    """Take the moments of an earlier checkpoint, with its counts of steps or without."""
    for name, slot in slots(series[-1]).items():
        taken = slots(series[-1 - back])[name]
        for key in moments(slot) + ["step"] * (counts and "step" in slot):
            slot[key] = taken[key].clone()
    return []


def flipped(tensor: Tensor, bit: int, was: int) -> Tensor:
    """With one exponent bit changed in the largest entry that has it as `was`; bits are numbered as in float32."""
    narrow = tensor.dtype == torch.bfloat16
    changed = tensor.clone().contiguous()
    flat = changed.view(torch.int16 if narrow else torch.int32).view(-1)
    place = bit - 16 if narrow else bit
    fit = (((flat >> place) & 1) == was).float() * tensor.float().abs().flatten()
    flat[int(fit.argmax())] ^= 1 << place
    return changed


def flip_moment(series: Sequence[Saved], number: int, bit: int, was: int) -> list[str]:
    """Change the largest entry of one layer's first or second moment whose bit was so."""
    name = middle(series[-1])
    slot = slots(series[-1])[name]
    moment = moments(slot)[number]
    slot[moment] = flipped(slot[moment], bit, was)
    return [name]


def flip_weight(series: Sequence[Saved], bit: int, was: int) -> list[str]:
    """Change the largest entry of one layer's weights whose bit was so."""
    name = middle(series[-1])
    series[-1]["model"][name] = flipped(series[-1]["model"][name], bit, was)
    return [name]


def other_entry(series: Sequence[Saved], value: float) -> list[str]:
    """Put a value into one entry of one layer's second moment."""
    name = middle(series[-1])
    slot = slots(series[-1])[name]
    slot["exp_avg_sq"] = slot["exp_avg_sq"].clone()
    slot["exp_avg_sq"].view(-1)[7] = value
    return [name]


def group_reset(series: Sequence[Saved]) -> list[str]:
    """Let the last tensors count updates from the last resumption on; of two groups the second one."""
    saved = series[-1]
    groups = saved["optimizer"]["param_groups"]
    chosen = groups[-1]["params"] if len(groups) == 2 else groups[0]["params"][-2:]
    reset = [name for name, slot in slots(saved).items() if any(slot is saved["optimizer"]["state"][p] for p in chosen)]
    for name in reset:
        slots(saved)[name]["step"] = torch.tensor(3.0)
    return reset


def rounded(series: Sequence[Saved]) -> list[str]:
    """Leave only those digits of the weights that bfloat16 has."""
    model = series[-1]["model"]
    model.update({name: weight.bfloat16().float() for name, weight in model.items()})
    return []


def frozen(series: Sequence[Saved]) -> list[str]:
    """Take one layer's weights from the checkpoint before; its moments went on."""
    name = middle(series[-1])
    series[-1]["model"][name] = series[-2]["model"][name].clone()
    return [name]


def weights_swapped(series: Sequence[Saved]) -> list[str]:
    """Exchange the weights of two layers, and no moments."""
    names, model = alike(series[-1]), series[-1]["model"]
    model[names[0]], model[names[1]] = model[names[1]], model[names[0]]
    return names


IMPOSSIBLE, MOMENTS, WEIGHTS = ("moments-impossible",), ("moments-not-continued",), ("weights-not-continued",)
STALE = ("moments-not-updated", "updates-and-steps-differ")
# the exponent of a float32 is in bits 23 to 30: bit 27 makes a factor of 2^16
FAULTS = [
    Fault("first moments of two layers swapped", lambda series: swapped(series, 1), IMPOSSIBLE, second_moments=True),
    Fault("all moments of two layers swapped", lambda series: swapped(series, 2), MOMENTS),
    Fault("first moments zeroed", lambda series: zeroed(series, 1), IMPOSSIBLE, second_moments=True),
    Fault("all moments zeroed, steps kept", lambda series: zeroed(series, 2), MOMENTS),
    Fault("moments of the checkpoint before, with its steps", lambda series: older(series, 1, True), STALE),
    Fault("moments of the checkpoint before", lambda series: older(series, 1, False), STALE),
    Fault("moments of two checkpoints before", lambda series: older(series, 2, False), MOMENTS),
    Fault("entry of v over 65536", lambda series: flip_moment(series, 1, 27, 1), IMPOSSIBLE, second_moments=True),
    Fault("entry of v times 256", lambda series: flip_moment(series, 1, 26, 0), (), second_moments=True),
    Fault("entry of m times 256", lambda series: flip_moment(series, 0, 26, 0), IMPOSSIBLE),
    Fault("entry of a weight times 2^128", lambda series: flip_weight(series, 30, 0), WEIGHTS),
    Fault("entry of a weight over 65536", lambda series: flip_weight(series, 27, 1), WEIGHTS),
    Fault("steps of one group reset", group_reset, ("update-counts-differ",), second_moments=True),
    Fault("weights rounded to bfloat16", rounded, ("master-rebuilt",), master=True),
    Fault("layer frozen, its moments go on", frozen, ("layer-frozen",)),
    Fault("weights of two layers swapped", weights_swapped, WEIGHTS),
    Fault("negative v", lambda series: other_entry(series, -1e-12), IMPOSSIBLE, second_moments=True),
    Fault("NaN in v", lambda series: other_entry(series, math.nan), ("moments-not-finite",), second_moments=True),
]
ANOTHER_RUN = (*MOMENTS, *WEIGHTS)
RESUMPTIONS = {
    "optimizer started anew": ("new-optimizer", ("optimizer-restarted",)),
    "moments started anew, steps kept": ("new-moments", MOMENTS),
    "rate warms up again": ("warm-up-again", ("rate-rises-again", "rate-not-continued", "rate-jumps")),
}
"""Faults that are trained: the run goes on wrongly from the checkpoint before the last, to the last."""
