"""Which optimizer a saved state comes from, as far as its slots and settings tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState

BY_SETTINGS = (  # settings that together only one kind has; the more telling ones first
    ({"ns_steps"}, "muon"),
    ({"p_bound"}, "fromage"),
    ({"trust_coefficient"}, "lars"),
    ({"trust_coeff"}, "lars"),
    ({"betas", "trust_clip"}, "lamb"),
    ({"betas", "grad_averaging"}, "lamb"),
    ({"momentum_decay", "betas"}, "nadam"),
    ({"lambd", "t0"}, "asgd"),
    ({"etas", "step_sizes"}, "rprop"),
    ({"nesterov", "dampening"}, "sgd"),
)
BY_SLOTS = (
    ({"exp_avg", "exp_inf"}, "adamax"),
    ({"square_avg", "acc_delta"}, "adadelta"),
    ({"square_avg"}, "rmsprop"),
    ({"sum"}, "adagrad"),
    ({"trust_ratio"}, "lamb"),
    ({"row_var"}, "adafactor"),
    ({"exp_avg_sq_row"}, "adafactor"),
)
BESIDE = {"step", "param", "master_param", "master_params", "fp32_param"}
"""Slots that are no moments: the number of updates, and copies of the weights."""
OTHERS = {"rho", "d", "d0", "k", "warmup_steps", "no_prox"}
"""Settings of optimizers that keep moments under the names of Adam's and do something else with them."""
EITHER_ADAM = "adam or adamw"


def optimizer_kind(state: OptimizerState) -> str | None:
    """`adamw`, `sgd`, `lion` …; `adam or adamw` where the file does not say which; None where nothing fits."""
    settings = {name for group in state.groups for name in group.settings}
    slots = {name for slot in state.slots.values() for name in slot}
    if _lion(settings, slots):
        return "lion"
    if "decoupled_weight_decay" in settings and "momentum_decay" not in settings and "amsgrad" not in settings:
        return "radam"  # torch's: the only one with that word and without the other two
    for needed, kind in BY_SETTINGS:
        if needed <= settings:
            return kind
    for needed, kind in BY_SLOTS:
        if needed <= slots:
            return kind
    return _adam(state) if _has_moments(settings, slots) else None


def _has_moments(settings: set[str], slots: set[str]) -> bool:
    """The two moments of Adam and no others; before the first step, betas."""
    if slots:
        return slots - BESIDE - {"max_exp_avg_sq"} == {"exp_avg", "exp_avg_sq"} and not OTHERS & settings
    return "betas" in settings and not OTHERS & settings


def _lion(settings: set[str], slots: set[str]) -> bool:
    """One moment that betas interpolate; before the first step, betas that no eps goes with."""
    if "betas" not in settings or OTHERS & settings:
        return False
    return slots - BESIDE == {"exp_avg"} if slots else "eps" not in settings


def _adam(state: OptimizerState) -> str:
    """Adam couples the decay to the gradient, AdamW does not; only newer files say so."""
    first: Mapping[str, Any] = state.groups[0].settings if state.groups else {}
    decoupled = first.get("decoupled_weight_decay")
    if isinstance(decoupled, bool):
        return "adamw" if decoupled else "adam"
    return "adam" if all(group.settings.get("weight_decay") == 0 for group in state.groups) else EITHER_ADAM


def optimizer_step(state: OptimizerState) -> int | None:
    """The number of updates made, from the slots; None where they do not count."""
    steps = [_whole(slot["step"]) for slot in state.slots.values() if "step" in slot]
    return max((step for step in steps if step is not None), default=None)


def _whole(value: Any) -> int | None:
    if getattr(value, "shape", ()) not in ((), (1,)):
        return None
    number = value.item() if hasattr(value, "item") else value
    return int(number) if isinstance(number, int | float) and abs(number) < math.inf else None
