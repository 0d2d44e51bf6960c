"""The eigenvalue held against what the optimizer bears, and the word for the ratio."""

from fromage_cli.diagnostics.sharpness.partial_measurement import CurvatureMeasurement
from fromage_cli.missing import Missing, Why
from fromage_cli.probes.curvature.lanczos import Eigenvalue
from fromage_cli.probes.curvature.threshold import threshold_of
from fromage_cli.problem.losses.supervised_losses import SquaredError
from fromage_cli.theory.stability import EDGE, initial_regime


def ratio_to_threshold(
    measuring: CurvatureMeasurement, eigenvalue: float | None, conditioned: Eigenvalue | Missing
) -> float | Missing:
    """The eigenvalue that the optimizer's threshold speaks of, divided by it.

    `conditioned`: that of the Hessian as the optimizer conditions it, for Adam and where groups differ.
    """
    optimizer = measuring.optimizer
    threshold = threshold_of(optimizer)
    if isinstance(threshold, Missing):
        return threshold
    if not isinstance(conditioned, Missing):
        return conditioned.value / threshold
    if optimizer.adaptive or eigenvalue is None:
        return Missing(Why.RESTS_ON_MISSING, "there is no eigenvalue to compare")
    return (eigenvalue + optimizer.coupled_decay) / threshold


def regime_of(measuring: CurvatureMeasurement, ratio: float | Missing, trained: bool) -> str | Missing:
    """The word for the ratio, where the theory has one."""
    if isinstance(ratio, Missing):
        return Missing(Why.RESTS_ON_MISSING, "there is no ratio")
    if trained:
        if ratio <= EDGE[1]:
            return "lazy" if ratio < EDGE[0] else "edge-of-stability"
        return Missing(Why.NO_FORMULA, "the bands above the threshold were measured at initialisation")
    if ratio < 1.0 or isinstance(measuring.problem.loss, SquaredError):
        return initial_regime(2.0 * ratio)
    return Missing(Why.NO_FORMULA, "the bands above the threshold were measured with squared error")
