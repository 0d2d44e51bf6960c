"""The curvature compared with what the optimizer tolerates, and the word for the ratio."""

from dataclasses import replace

from fromage_cli.diagnostics.sharpness.partial_measurement import CurvatureMeasurement
from fromage_cli.missing import Missing, Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.lanczos import Eigenvalue
from fromage_cli.probes.curvature.threshold import no_threshold, optimizer_kind, rate_for, threshold_of
from fromage_cli.theory.stability import INITIAL_BANDS, TRAINED_BANDS, regime

NOT_TOLD = Missing(Why.STEP_UNKNOWN, "the file does not say whether training has begun")


def compared_curvature(
    measuring: CurvatureMeasurement, eigenvalue: float | None, conditioned: Eigenvalue | Missing
) -> float | Missing:
    """The curvature that is compared with the optimizer's threshold.

    `conditioned`: that of the Hessian as the optimizer conditions it, for Adam and where groups differ.
    """
    if not isinstance(conditioned, Missing):
        return conditioned.value
    if measuring.optimizer.adaptive:
        return conditioned
    if eigenvalue is None:
        return Missing(Why.RESTS_ON_MISSING, "there is no eigenvalue to compare")
    return eigenvalue + measuring.optimizer.coupled_decay


def ratio_to_threshold(optimizer: Optimizer, compared: float | Missing) -> float | Missing:
    """That curvature over the threshold."""
    threshold = threshold_of(optimizer)
    if isinstance(threshold, Missing) or isinstance(compared, Missing):
        return threshold if isinstance(threshold, Missing) else compared
    return compared / threshold


def stable_learning_rate(optimizer: Optimizer, compared: float | Missing) -> float | Missing:
    """The learning rate at which that curvature is at the threshold."""
    none = no_threshold(replace(optimizer, learning_rate=None))
    if none is not None or isinstance(compared, Missing):
        return none or compared
    found = rate_for(optimizer, compared)
    return Missing(Why.NO_FORMULA, "no curvature is positive, so that none limits the rate") if found is None else found


def regime_of(
    measuring: CurvatureMeasurement, ratio: float | Missing, outcome: str | None, trained: bool | None, begins: bool
) -> str | Missing:
    """The word for the ratio, where training was measured; `outcome`: of training in the quadratic model.

    `trained`: None where that is not known; it then counts as trained. `begins`: Adam has hardly begun, or may have.
    """
    if isinstance(ratio, Missing):
        return Missing(Why.RESTS_ON_MISSING, "there is no ratio")
    kind, loss = optimizer_kind(measuring.optimizer), measuring.problem.loss.name
    initial = trained is False or begins
    found = regime((INITIAL_BANDS if initial else TRAINED_BANDS).get((kind, loss), ()), ratio)
    if found is not None and outcome in _CONTRADICTING.get(found, ()):
        words = "the quadratic model takes another course than the networks studied at this ratio"
        return Missing(Why.NO_FORMULA, words)
    if found is None and trained is None and not begins and (kind, loss) in INITIAL_BANDS:
        return NOT_TOLD
    if kind == "adaptive" and initial:
        unsaved = trained is not False and not measuring.matched.holds_memory
        when = "without a state of Adam the" if unsaved else "where Adam begins, its"
        return found or Missing(Why.NO_FORMULA, f"{when} ratio did not tell how training goes on")
    setting = f"{_KINDS[kind]} and {_LOSSES.get(loss, 'this loss')}"
    return found or Missing(Why.NO_FORMULA, f"no study says how training with {setting} goes on from here")


_KINDS = {
    "descent": "plain descent",
    "momentum": "momentum",
    "nesterov": "Nesterov momentum",
    "adaptive": "Adam",
    "other momentum": "this momentum",
}
_LOSSES = {"mse": "squared error", "cross-entropy": "cross-entropy"}
_CONTRADICTING = {
    "lazy": ("spikes", "rises", "diverges"),
    "catapult": ("diverges",),
    "edge-of-stability": ("diverges",),
}
"""Outcomes of the quadratic model beside which a regime would mislead."""
