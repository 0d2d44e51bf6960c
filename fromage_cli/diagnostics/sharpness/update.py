"""What is measured along the optimizer's next update: where the loss rises, and how far the quadratic model holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fromage_cli.diagnostics.sharpness.partial_measurement import BATCH_STATISTICS, PartialMeasurement
from fromage_cli.diagnostics.sharpness.result import QuadraticModel
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why, failed, found_of, known
from fromage_cli.probes.curvature.batch_sharpness import training_batches
from fromage_cli.probes.curvature.critical_sharpness import critical_sharpness_error
from fromage_cli.probes.curvature.quadratic_model import SimulatedTraining, measure_line, simulate_training
from fromage_cli.probes.lines.critical import critical_rate, descent_along
from fromage_cli.probes.optimizer_step.next_step import next_step
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace

ANY_RATE = 1e-2
"""Where the search begins if neither a rate is given nor the curvature tells one."""


@dataclass(frozen=True)
class AlongUpdate:
    """The numbers that belong to the next update."""

    critical_sharpness: float | Missing
    critical_sharpness_stderr: float | Missing
    quadratic: QuadraticModel | Missing


def measure_update(measuring: PartialMeasurement, eigenvalue: float) -> AlongUpdate:
    """Critical sharpness with its error, then the quadratic model; `eigenvalue` scales a search without a rate."""
    step = OPTIMIZER_UNKNOWN if measuring.optimizer.name is None else measuring.within_limits(lambda: _step(measuring))
    if isinstance(step, Missing):
        return AlongUpdate(step, step, step)
    start = measuring.optimizer.learning_rate or (1.0 / eigenvalue if eigenvalue > 0.0 else ANY_RATE)
    rate = measuring.within_limits(lambda: _critical_rate(measuring, step, start))
    error = measuring.within_limits(lambda: _critical_error(measuring, step, rate))
    quadratic = measuring.within_limits(lambda: _quadratic(measuring, step, known(rate) or start))
    return AlongUpdate(rate if isinstance(rate, Missing) else 2.0 / rate, error, quadratic)


def _step(measuring: PartialMeasurement) -> Mapping[str, Tensor] | Missing:
    """How the next update moves the chosen tensors, per unit of the rate."""
    step, note = next_step(measuring.matched)
    measuring.note(note)
    moving = {tensor.name: step[tensor.name] for tensor in measuring.space.tensors if tensor.name in step}
    return moving or Missing(Why.NOTHING_MOVES, f"{measuring.optimizer.name} moves none of the chosen tensors")


def _critical_rate(measuring: PartialMeasurement, step: Mapping[str, Tensor], start: float) -> float | Missing:
    try:
        rate = critical_rate(measuring.problem, step, start, measuring.optimizer.contraction)
    except NumericalError as rounded:
        return Missing(Why.HIDDEN_BY_ROUNDING, rounded.message)
    if rate is not None:
        return rate
    if descent_along(measuring.problem, step) > 0.0:
        return Missing(Why.NO_RISE, "no rate was found that raises the loss")
    return Missing(Why.UPHILL, "the step goes uphill from the start: every rate raises the loss")


def _critical_error(
    measuring: PartialMeasurement, step: Mapping[str, Tensor], rate: float | Missing
) -> float | Missing:
    if isinstance(rate, Missing):
        return Missing(Why.RESTS_ON_MISSING, "there is no critical sharpness")
    if measuring.cutting_changes_the_loss():
        return BATCH_STATISTICS
    parts = training_batches(measuring.problem, measuring.request.batch_rows)
    try:
        error = critical_sharpness_error(measuring.problem, step, rate, parts, measuring.optimizer.contraction)
    except (MismatchError, NumericalError) as refused:  # a loss that compares rows need not work on a few of them
        return failed(refused)
    if error is None:
        words = f"it takes two parts of the rows and a loss that rises there; there are {len(parts)}"
        return Missing(Why.TOO_FEW_ROWS, words)
    return error


def _quadratic(measuring: PartialMeasurement, step: Mapping[str, Tensor], start: float) -> QuadraticModel | Missing:
    no_model = measuring.no_gauss_newton()
    if no_model is not None:
        return no_model
    space = WeightSpace([tensor for tensor in measuring.space.tensors if tensor.name in step])
    line = measure_line(measuring.problem, space, step, start)
    measuring.advance()
    simulated: SimulatedTraining | Missing
    if not measuring.request.simulated_steps:
        simulated = Missing(Why.NOT_ASKED, "no step was asked for")
    elif measuring.optimizer.learning_rate is None:
        simulated = LEARNING_RATE_UNKNOWN
    else:
        try:
            steps = measuring.request.simulated_steps
            measured = simulate_training(measuring.matched, space, steps=steps, advance=measuring.advance)
            found, limit = found_of(measured)
            simulated, measuring.error = found, limit or measuring.error
        except MismatchError as refused:
            simulated = failed(refused)
    radius: float | Missing = Missing(Why.ABOVE_GRID, "the model holds at every rate that was looked at")
    if line.relation == "below-grid":
        radius = Missing(Why.BELOW_GRID, "the model holds at no rate that was looked at")
    return QuadraticModel(
        radius=radius if line.radius is None else line.radius,
        radius_relation=line.relation,
        losses=() if isinstance(simulated, Missing) else simulated.losses,
        spikes=simulated if isinstance(simulated, Missing) else simulated.outcome == "spikes",
        outcome=simulated if isinstance(simulated, Missing) else simulated.outcome,
        rates=line.rates,
        line_losses=line.losses,
        line_model_losses=line.model_losses,
    )
