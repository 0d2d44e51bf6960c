"""Which optimizer a saved state comes from, as far as the names of its settings and slots tell."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fromage_cli.optimizers.rule import ADAFACTOR, ADAM, ADAMW, LION, RULES

EITHER_ADAM = f"{ADAM.name} or {ADAMW.name}"
BESIDE = {"step", "param", "master_param", "master_params", "fp32_param"}
"""Slots that are no moments: the number of updates, and copies of the weights."""
STRANGERS = {"rho", "d", "d0", "k", "warmup_steps", "no_prox"}
"""Settings of optimizers that keep moments under the names of Adam's and do something else with them."""
OTHERS_BY_SETTINGS = (
    ({"momentum_decay", "betas"}, "nadam"),
    ({"lambd", "t0"}, "asgd"),
    ({"etas", "step_sizes"}, "rprop"),
)
OTHERS_BY_SLOTS = (
    ({"exp_avg", "exp_inf"}, "adamax"),
    ({"square_avg", "acc_delta"}, "adadelta"),
    ({"square_avg"}, "rmsprop"),
    ({"sum"}, "adagrad"),
    ({"exp_avg_sq_row"}, f"{ADAFACTOR.name} of transformers"),
)
"""Optimizers that are recognised and not covered; the more telling marks first."""


def recognise(groups: Sequence[Mapping[str, Any]], slots: Collection[str]) -> str | None:
    """`adamw`, `sgd`, `lion` …; `adam or adamw` where nothing says which; None where nothing fits.

    `groups`: the settings of each group; `slots`: the names of all slots.
    """
    settings = {name for group in groups for name in group}
    kept = set(slots) - BESIDE
    if "betas" in settings and not STRANGERS & settings and (kept == {"exp_avg"} if slots else "eps" not in settings):
        return LION.name  # one moment that betas interpolate; before the first step, betas that no eps goes with
    if "decoupled_weight_decay" in settings and "momentum_decay" not in settings and "amsgrad" not in settings:
        return "radam"  # torch's: the only one with that word and without the other two
    by_settings = [(mark, rule.name) for rule in RULES.values() for mark in rule.setting_marks]
    by_slots = [(mark, rule.name) for rule in RULES.values() for mark in rule.slot_marks]
    for names, marks in ((settings, (*by_settings, *OTHERS_BY_SETTINGS)), (set(slots), (*by_slots, *OTHERS_BY_SLOTS))):
        for mark, kind in marks:
            if mark <= names:
                return kind
    moments = kept - {"max_exp_avg_sq"} == {"exp_avg", "exp_avg_sq"} if slots else "betas" in settings
    if STRANGERS & settings or not moments:
        return None
    decoupled = groups[0].get("decoupled_weight_decay") if groups else None
    if isinstance(decoupled, bool):  # only newer files say so
        return ADAMW.name if decoupled else ADAM.name
    return ADAM.name if all(group.get("weight_decay") == 0 for group in groups) else EITHER_ADAM
