"""Which optimizer a saved state comes from, as far as the names of its settings and slots show it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fromage_cli.optimizers.rule import ADAFACTOR, ADAM, ADAMW, LION, MUON, RULES

EITHER_ADAM = f"{ADAM.name} or {ADAMW.name}"
ADAM_ALIKE = f"{ADAM.name}, {ADAMW.name} or a similar one"
"""What has the slots of Adam and not all of its settings: Yogi and NAdamW may be saved so, and AdamW by other hands."""
ADAFACTOR_OF_TRANSFORMERS = f"{ADAFACTOR.name} of transformers"
"""Keeps the mean of its updates, rate included, where beta1 is given, and factors of the second moment."""
MEANS_OF_ADAM = (EITHER_ADAM, ADAM_ALIKE, "nadam", "radam")
"""What has no rule here, and whose moments are Adam's means of gradients and of their squares."""
COPIES = {"param", "master_param", "master_params", "master_weight", "master_weights", "fp32_param", "fp32"}
"""Slots that hold a copy of the weights in more digits: of Megatron, apex and Transformer Engine, DeepSpeed."""
BESIDE = {"step"} | COPIES
"""Slots that are no moments: the number of updates, and copies of the weights."""
OF_ADAM = {"amsgrad", "bias_correction", "correct_bias", "use_muon"}
"""Settings of which those that implement Adam save one: torch, apex and DeepSpeed, transformers, Muon's auxiliary."""
STRANGERS = {
    *("rho", "d", "d0", "k", "warmup_steps", "gamma", "delta", "nus", "weight_decouple", "n_sma_threshold", "buffer"),
    *("degenerated_to_sgd", "decouple", "rank", "hessian_power", "alpha", "beta3", "rectify", "cautious"),
    *("clip_exp", "decoupled", "corrected_weight_decay"),
}
"""Settings of optimizers that keep moments under the names of Adam's and do something else with them."""
BEFORE_RULES = (
    ({"clip_threshold", "scale_parameter"}, ADAFACTOR_OF_TRANSFORMERS),
    ({"wd_ratio", "betas"}, "adamp"),
    ({"wd_ratio"}, "sgdp"),
    ({"caution", "dampening"}, "sgdw of timm"),
    ({"final_lr"}, "adabound"),
    ({"initial_accumulator"}, "yogi"),
    ({"schedule_decay"}, "nadam of timm"),
    ({"no_prox"}, "adan"),
    ({"weight_lr_power"}, "an optimizer without a schedule"),
    ({"d_coef"}, "prodigy or d-adaptation"),
    ({"init_zero"}, "novograd"),
    ({"amsgrad", "grad_averaging"}, "novograd"),
    ({"update_proj_gap"}, "galore"),
    ({"mars_type"}, "mars"),
    ({"precondition_frequency"}, "soap"),
    ({"weight_decouple", "dampening"}, "sgdw"),
    ({"integral", "derivative"}, "sgd with a PID controller"),
    ({"grad_averaging", "rectify"}, "another lamb"),
    ({"adamw_betas"}, "muon with an auxiliary adam"),
)
"""Settings that together only other optimizers have, of which some are a rule's own as well."""
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
    ({"exp_avg_res_row"}, "came"),
    ({"exp_avg_sq_row"}, ADAFACTOR_OF_TRANSFORMERS),
    ({"exp_avg_diff"}, "adan"),
    ({"exp_avg_var"}, "adabelief"),
    ({"hessian"}, "sophia"),
    ({"m_schedule"}, "nadam of timm"),
    ({"exp_avg_slow"}, "ademamix"),
    ({"state1"}, "an optimizer of bitsandbytes"),
)
"""Optimizers that are recognised and not covered; the more telling marks first."""


def recognise(groups: Sequence[Mapping[str, Any]], slots: Collection[str]) -> str | None:
    """`adamw`, `sgd`, `lion` …; `adam or adamw`, or ADAM_ALIKE, where nothing says which; None where nothing fits.

    `groups`: the settings of each group; `slots`: the names of all slots.
    """
    settings = {name for group in groups for name in group}
    kept = set(slots) - BESIDE
    known = [MUON.name] if any(group.get("use_muon") for group in groups) else []
    known += [kind for mark, kind in BEFORE_RULES if mark <= settings]
    if known or any(group.get("caution") for group in groups):  # an update that is masked by the gradient's sign
        return known[0] if known else None
    if "betas" in settings and not STRANGERS & settings and kept == ({"exp_avg"} if slots else set()):
        if "eps" not in settings:
            return LION.name  # one moment that betas interpolate, and no root that it is divided by
        if slots:
            return None  # NovoGrad of apex and others whose second moment is not kept by parameter
    if "decoupled_weight_decay" in settings and "momentum_decay" not in settings and "amsgrad" not in settings:
        return "radam"  # torch's: the only one with that word and without the other two
    by_settings = [(mark, rule.name) for rule in RULES.values() for mark in rule.setting_marks]
    by_slots = [(mark, rule.name) for rule in RULES.values() for mark in rule.slot_marks]
    for names, marks in ((settings, (*by_settings, *OTHERS_BY_SETTINGS)), (set(slots), (*by_slots, *OTHERS_BY_SLOTS))):
        for mark, kind in marks:
            if mark <= names:
                return kind
    moments = kept - {"max_exp_avg_sq"} == {"exp_avg", "exp_avg_sq"} if slots else "betas" in settings
    return _which_adam(groups, settings) if moments and not STRANGERS & settings else None


def _which_adam(groups: Sequence[Mapping[str, Any]], settings: Collection[str]) -> str:
    """Adam or AdamW by how decay is said to go, or that nothing says it."""
    decoupled = groups[0].get("decoupled_weight_decay", True if "use_muon" in settings else None) if groups else None
    if isinstance(decoupled, bool):  # only newer files say so
        return ADAMW.name if decoupled else ADAM.name
    if not OF_ADAM.intersection(settings):
        return ADAM_ALIKE
    return ADAM.name if all(group.get("weight_decay") == 0 for group in groups) else EITHER_ADAM
