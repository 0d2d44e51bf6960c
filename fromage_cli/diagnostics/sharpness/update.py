"""What is measured along the optimizer's next step: where the loss rises, and how far the quadratic model holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fromage_cli.diagnostics.sharpness.partial_measurement import CurvatureMeasurement
from fromage_cli.diagnostics.sharpness.result import QuadraticModel
from fromage_cli.diagnostics.sharpness.verdict import NOT_TOLD
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why, failed, known
from fromage_cli.probes.curvature.critical_sharpness import critical_sharpness_error
from fromage_cli.probes.curvature.quadratic_model import SimulatedTraining, measure_line, simulate_training
from fromage_cli.probes.lines.critical import critical_rate, descent_along
from fromage_cli.probes.optimizer_step.next_step import measure_next_step, next_step
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace

ANY_RATE = 1e-2
"""Where the search begins if neither a rate is given nor the curvature tells one."""


@dataclass(frozen=True)
class AlongUpdate:
    """The numbers that belong to the next update."""

    critical_sharpness: float | Missing
    critical_sharpness_stderr: float | Missing
    quadratic: QuadraticModel | Missing


def measure_update(measuring: CurvatureMeasurement, eigenvalue: float) -> AlongUpdate:
    """Critical sharpness with its error, then the quadratic model; `eigenvalue` scales a search without a rate."""
    problem, optimizer = measuring.problem, measuring.optimizer
    if optimizer.name is None:
        return AlongUpdate(OPTIMIZER_UNKNOWN, OPTIMIZER_UNKNOWN, OPTIMIZER_UNKNOWN)
    problem.evaluations.doing = "the next update"
    found = measuring.within_limits(lambda: next_step(measuring.matched))
    if isinstance(found, Missing):
        return AlongUpdate(found, found, found)
    moved, note = found
    measuring.note(note)
    step = {tensor.name: moved[tensor.name] for tensor in measuring.space.tensors if tensor.name in moved}
    if not step:
        still = Missing(Why.NOTHING_MOVES, f"{optimizer.name} moves none of the chosen tensors")
        return AlongUpdate(still, still, still)
    start = optimizer.learning_rate or (1.0 / eigenvalue if eigenvalue > 0.0 else ANY_RATE)

    problem.evaluations.doing = "the rate at which the loss rises"
    rate = measuring.within_limits(lambda: _critical(measuring, step, start))
    error: float | Missing
    if isinstance(rate, Missing):
        error = measuring.within_limits(lambda: Missing(Why.RESTS_ON_MISSING, "there is no critical sharpness"))
    else:
        error = measuring.over_training_batches(
            lambda parts: critical_sharpness_error(problem, step, rate, parts, optimizer.contraction),
            "it takes a loss that rises there, and two parts of the rows; there are",
        )
    quadratic = measuring.within_limits(lambda: _quadratic(measuring, step, known(rate) or start))
    return AlongUpdate(rate if isinstance(rate, Missing) else 2.0 / rate, error, quadratic)


def first_step_sharpness(measuring: CurvatureMeasurement, trained: bool | None) -> float | Missing:
    """2 / the smallest rate whose very first step raises the loss, for Adam: one rate in the sign of each gradient."""
    if trained is None and measuring.optimizer.adaptive and not measuring.matched.holds_memory:
        return NOT_TOLD
    if not measuring.optimizer.adaptive or measuring.matched.holds_memory or trained:
        return Missing(Why.NOT_DEFINED, "only Adam has it, before its first step")
    names = {tensor.name for tensor in measuring.space.tensors}

    def critical() -> float | Missing:
        measuring.problem.evaluations.doing = "the very first step"
        first = measure_next_step(measuring.matched)
        step = {t.name: first.moved(t) for t in measuring.problem.receiving if t.name in first.steps.keys() & names}
        return _critical(measuring, step, measuring.optimizer.learning_rate or ANY_RATE)

    rate = measuring.within_limits(critical)
    return rate if isinstance(rate, Missing) else 2.0 / rate


def _critical(measuring: CurvatureMeasurement, step: Mapping[str, Tensor], start: float) -> float | Missing:
    """The smallest rate that raises the loss along a step, looked for around `start`."""
    try:
        rate = critical_rate(measuring.problem, step, start, measuring.optimizer.contraction)
    except NumericalError as rounded:
        return Missing(Why.HIDDEN_BY_ROUNDING, rounded.message)
    if rate is not None:
        return rate
    descent = descent_along(measuring.problem, step)
    if descent > 0.0:
        return Missing(Why.NO_RISE, "no rate was found that raises the loss")
    if descent == 0.0:
        return Missing(Why.ZERO_OR_NOT_FINITE, "the loss has no slope along the step: its gradient is zero there")
    return Missing(Why.UPHILL, "the step goes uphill from the start: every rate raises the loss")


def _quadratic(measuring: CurvatureMeasurement, step: Mapping[str, Tensor], start: float) -> QuadraticModel | Missing:
    no_model = measuring.no_gauss_newton()
    if no_model is not None:
        return no_model
    evaluations = measuring.problem.evaluations
    evaluations.doing = "how far the quadratic model holds"
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
            evaluations.doing = f"{steps} steps of training in the quadratic model"
            simulated = measuring.kept(
                simulate_training(measuring.matched, space, steps=steps, advance=measuring.advance)
            )
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
