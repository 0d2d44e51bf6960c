"""From a Problem and an optimizer to a SharpnessResult."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.sharpness.cost import Effort
from fromage_cli.diagnostics.sharpness.course import Course
from fromage_cli.diagnostics.sharpness.result import HessianEigenvalue, SharpnessResult
from fromage_cli.diagnostics.sharpness.update import measure_update
from fromage_cli.diagnostics.sharpness.verdict import ratio_to_threshold, regime_of
from fromage_cli.errors import FromageError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature.threshold import threshold_of
from fromage_cli.probes.optimizer_step.matched_state import state_of
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor


@dataclass(frozen=True)
class Measurement:
    """The result, what was cut short, and what the user should know."""

    result: SharpnessResult
    error: FromageError | None
    notes: tuple[str, ...]


def measure(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    trained: bool = False,
    effort: Effort | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Measurement:
    """The sharpness of the loss over some tensors, and what it means for an optimizer.

    Costs about ten Hessian-vector products for each eigenvalue, two gradients, some thirty forward passes, and three
    products for each simulated step. Raises MismatchError where the loss has no second derivative or the state does
    not fit, NumericalError where a product is not finite; limits and iterations that did not converge are kept in the
    measurement.
    """
    course = Course(problem, WeightSpace(tensors), optimizer, state_of(optimizer, state), effort or Effort(), advance)
    loss, notes = problem.base.loss, [*optimizer.notes, *optimizer.group_notes]
    found = course.spectrum("eigenvalues", hessian, course.effort.count)
    outer = course.gauss_newton_eigenvalue()
    conditioned = course.preconditioned_eigenvalue()
    layers = course.blocks() if course.effort.blocks else ()
    batches = course.batch_sharpness()
    update = measure_update(course, found[0].value if found else 0.0)
    ratio = ratio_to_threshold(course, found[0].value if found else None, conditioned)
    result = SharpnessResult(
        loss=loss,
        eigenvalues=tuple(HessianEigenvalue(pair.value, pair.residual) for pair in found),
        gauss_newton_eigenvalue=outer,
        preconditioned_eigenvalue=conditioned,
        critical_sharpness=update.critical_sharpness,
        critical_sharpness_stderr=update.critical_sharpness_stderr,
        batch_sharpness=batches,
        optimizer=optimizer.name,
        learning_rate=optimizer.learning_rate,
        momentum=optimizer.momentum if optimizer.has("momentum") else None,
        threshold=threshold_of(optimizer),
        ratio=ratio,
        scaled_ratio=2.0 * ratio if ratio is not None else None,
        trained=trained,
        regime=regime_of(course, ratio, trained),
        tensors=len(tensors),
        parameters=sum(tensor.parameter.numel() for tensor in tensors),
        quadratic=update.quadratic,
        layers=layers,
        absent=tuple(course.absent),
    )
    return Measurement(result, course.error, (*notes, *course.notes))
