"""Learning rates that train most small networks, where one is known for the optimizer or follows from another's.

Source: docs/learning-rate-study.md; for Lion, Chen et al., NeurIPS 2023, section 5, who take 3 to 10 times less than
for AdamW; for Muon, torch's `match_rms_adamw`, made so that AdamW's rate can be kept.
"""

from fromage_cli.missing import OPTIMIZER_UNKNOWN, Basis, Missing, Why
from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, LAMB, LARS, LION, MUON, SGD
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.theory import rate_calibration
from fromage_cli.theory.conversions import stationary_gain
from fromage_cli.theory.rate_calibration import Calibration, momentum_calibration

STUDIED_PARAMETERS = 100_000
"""The networks whose best rates were averaged have fewer."""
TRAINED = Missing(Why.NOT_DEFINED, "typical rates are for new weights, and these are trained")
LARGER = Missing(Why.NOT_DEFINED, "typical rates are for networks below 0.1M parameters, and this one has more")
NOT_HERE = {TRAINED: "only of new weights", LARGER: "only below 0.1M"}
"""The same in few words."""
ROOT_MEAN_SQUARE = 0.2
"""Of an entry of AdamW's update while training. Source: Liu et al., *Muon is scalable*, 2025, section 2.2."""


def calibration(optimizer: Optimizer) -> Calibration | None:
    """The constants that the study found for an optimizer, AdamW's for Adam; None where it has none."""
    if optimizer.rule is SGD:
        return momentum_calibration(optimizer.momentum)
    if optimizer.rule in (ADAM, ADAMW):
        return rate_calibration.ADAMW
    return rate_calibration.FROMAGE if optimizer.rule is FROMAGE else None


def typical_rate_of(optimizer: Optimizer, *, new: bool, parameters: int) -> tuple[float | Missing, Basis]:
    """The rate and where it comes from; none for trained weights, nor for more parameters than were studied."""
    unlike = LARGER if parameters > STUDIED_PARAMETERS else None if new else TRAINED
    return typical_rate(optimizer) if unlike is None else (unlike, Basis(NOT_HERE[unlike], unlike.words))


def typical_rate(optimizer: Optimizer) -> tuple[float | Missing, Basis]:
    """The rate of small networks at new weights and where it comes from."""
    rule, relative, adamw = optimizer.rule, rate_calibration.FROMAGE.typical, rate_calibration.ADAMW.typical
    found = calibration(optimizer)
    if found is not None:
        source = "networks below 0.1M parameters: geometric mean of the best constant rates, from new weights"
        return found.typical, Basis("76 small networks", source)
    if rule in (LAMB, LARS):
        scale = optimizer.trust_coefficient * stationary_gain(optimizer.momentum) if rule is LARS else 1.0
        return relative / scale, Basis("as Fromage's", "the same relative step")
    if rule is LION:
        return ROOT_MEAN_SQUARE * adamw, Basis("as AdamW's", "the same size of step")
    if rule is MUON and optimizer.arguments["adjust_lr_fn"] == "match_rms_adamw":
        return adamw, Basis("as AdamW's", "which has the same size of step")
    if rule is None:
        return OPTIMIZER_UNKNOWN, Basis(OPTIMIZER_UNKNOWN.words)
    words = Basis("none known", rule.without["typical rate"])
    return Missing(Why.NO_FORMULA, words), words
