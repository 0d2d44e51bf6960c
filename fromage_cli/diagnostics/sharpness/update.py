"""What is measured along the optimizer's next update: where the loss rises, and how far the quadratic model holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fromage_cli.diagnostics.sharpness.course import Course
from fromage_cli.diagnostics.sharpness.result import QuadraticModel
from fromage_cli.errors import MismatchError, NumericalError, ResourceError
from fromage_cli.probes.curvature.batch_sharpness import training_batches
from fromage_cli.probes.curvature.critical_sharpness import critical_sharpness_error
from fromage_cli.probes.curvature.quadratic_model import SimulatedTraining, measure_line, simulate_training
from fromage_cli.probes.lines.critical import critical_rate, descent_along
from fromage_cli.probes.optimizer_step.next_step import next_step
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, has_gauss_newton

NO_RISE = "no rate was found that raises the loss"


@dataclass(frozen=True)
class AlongUpdate:
    """The numbers that belong to the next update."""

    critical_sharpness: float | None = None
    critical_sharpness_stderr: float | None = None
    quadratic: QuadraticModel | None = None


def measure_update(course: Course, eigenvalue: float) -> AlongUpdate:
    """Critical sharpness with its error, then the quadratic model; `eigenvalue` scales a search without a rate."""
    names = ("critical_sharpness", "critical_sharpness_stderr", "quadratic")
    if course.optimizer.name is None:
        return _nothing(course, names, "the optimizer is not known")
    if [name for name in names if course.over(name)]:
        return AlongUpdate()
    try:
        step, note = next_step(course.problem, course.optimizer, course.state)
    except ResourceError as limit:
        for name in names:
            course.stop(name, limit)
        return AlongUpdate()
    course.notes.append(note)
    moving = {tensor.name: step[tensor.name] for tensor in course.space.tensors if tensor.name in step}
    if not moving:
        return _nothing(course, names, f"{course.optimizer.name} moves none of the chosen tensors")
    start = course.optimizer.learning_rate or (1.0 / eigenvalue if eigenvalue > 0.0 else 1e-2)
    rate = _critical_rate(course, moving, start)
    error = _critical_error(course, moving, rate)
    quadratic = _quadratic(course, moving, rate or start)
    return AlongUpdate(2.0 / rate if rate is not None else None, error, quadratic)


def _nothing(course: Course, names: tuple[str, ...], reason: str) -> AlongUpdate:
    for name in names:
        course.without(name, reason)
    return AlongUpdate()


def _critical_rate(course: Course, step: Mapping[str, Tensor], start: float) -> float | None:
    name = "critical_sharpness"
    try:
        rate = critical_rate(course.problem, step, start, course.optimizer.contraction)
    except ResourceError as limit:
        course.stop(name, limit)
        return None
    except NumericalError as rounded:
        course.without(name, rounded.message)
        return None
    if rate is None:
        falls = descent_along(course.problem, step) > 0.0
        course.without(name, NO_RISE if falls else "the step goes uphill from the start: every rate raises the loss")
    return rate


def _critical_error(course: Course, step: Mapping[str, Tensor], rate: float | None) -> float | None:
    name = "critical_sharpness_stderr"
    if course.over(name):
        return None
    if rate is None:
        course.without(name, "there is no critical sharpness")
        return None
    if course.cutting_changes_the_loss():
        course.without(name, "BatchNorm's statistics depend on the rows of a batch; --train-batch-size gives them")
        return None
    parts = training_batches(course.problem, course.effort.batch_rows)
    try:
        error = critical_sharpness_error(course.problem, step, rate, parts, course.optimizer.contraction)
    except ResourceError as limit:
        course.stop(name, limit)
        return None
    except (MismatchError, NumericalError) as refused:  # a loss that compares rows need not work on a few of them
        course.without(name, refused.message.splitlines()[0])
        return None
    if error is None:
        course.without(name, f"it takes two parts of the rows and a loss that rises there; there are {len(parts)}")
    return error


def _quadratic(course: Course, step: Mapping[str, Tensor], start: float) -> QuadraticModel | None:
    """Null where the loss is no known function of the output, or a limit was reached."""
    name = "quadratic"
    if course.over(name):
        return None
    if not has_gauss_newton(course.problem):
        course.without(name, f"the loss ({course.problem.loss.name}) is no known function of the output")
        return None
    space = WeightSpace([tensor for tensor in course.space.tensors if tensor.name in step])
    try:
        line = measure_line(course.problem, space, step, start)
    except ResourceError as limit:
        course.stop(name, limit)
        return None
    course.advance()
    simulated = _simulated(course, space)
    return QuadraticModel(
        radius=line.radius,
        radius_relation=line.relation,
        losses=simulated.losses if simulated else (),
        spikes=simulated.outcome == "spikes" if simulated else None,
        outcome=simulated.outcome if simulated else None,
        rates=line.rates,
        line_losses=line.losses,
        line_model_losses=line.model_losses,
    )


def _simulated(course: Course, space: WeightSpace) -> SimulatedTraining | None:
    name = "quadratic.spikes"
    if not course.effort.simulated_steps:
        course.without(name, "no step was asked for")
    elif course.optimizer.learning_rate is None:
        course.without(name, "the learning rate is not known")
    else:
        steps = course.effort.simulated_steps
        try:
            found = simulate_training(
                course.problem, space, course.optimizer, course.state, steps=steps, advance=course.advance
            )
        except MismatchError as refused:
            course.without(name, refused.message)
            return None
        if found.stopped is not None:
            course.error = found.stopped
        return found
    return None
