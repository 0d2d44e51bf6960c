"""The eigenvalue held against what the optimizer bears, and the word for the ratio."""

from fromage_cli.diagnostics.sharpness.course import Course
from fromage_cli.probes.curvature.threshold import no_threshold, threshold_of
from fromage_cli.problem.losses.supervised_losses import SquaredError
from fromage_cli.theory.stability import EDGE, initial_regime


def ratio_to_threshold(course: Course, eigenvalue: float | None, conditioned: float | None) -> float | None:
    """The eigenvalue that the optimizer's threshold speaks of, divided by it.

    `conditioned`: that of the Hessian as the optimizer conditions it, for Adam and where groups differ.
    """
    optimizer = course.optimizer
    threshold = threshold_of(optimizer)
    if threshold is None:
        reason = no_threshold(optimizer) or "the optimizer is not known"
        course.without("threshold", reason)
        course.without("ratio", reason)
        return None
    if optimizer.adaptive or conditioned is not None:
        eigenvalue = conditioned
    elif eigenvalue is not None:
        eigenvalue += optimizer.coupled_decay
    if eigenvalue is None:
        course.without("ratio", "there is no eigenvalue to compare")
        return None
    return eigenvalue / threshold


def regime_of(course: Course, ratio: float | None, trained: bool) -> str | None:
    """The word for the ratio, where the theory has one."""
    if ratio is None:
        course.without("regime", "there is no ratio")
        return None
    if trained:
        if ratio <= EDGE[1]:
            return "lazy" if ratio < EDGE[0] else "edge-of-stability"
        course.without("regime", "the bands above the threshold were measured at initialisation")
        return None
    if ratio < 1.0 or isinstance(course.problem.loss, SquaredError):
        return initial_regime(2.0 * ratio)
    course.without("regime", "the bands above the threshold were measured with squared error")
    return None
