"""What a search for safe rates costs at most, told beforehand."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.diagnostics.suggest_lr.training import course_of
from fromage_cli.errors import UsageError
from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import FORWARD, PRODUCT, measure_cost, point_seconds
from fromage_cli.probes.curvature.iteration_cost import IterationCost, iteration_cost
from fromage_cli.probes.curvature.threshold import MAX_PRODUCTS
from fromage_cli.probes.lines.crossing import BELOW, POINTS, WITHOUT_SLOPE
from fromage_cli.probes.lines.draws import CRITICAL, gradients_of_draws
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_update import CHUNKS
from fromage_cli.probes.trial_runs.rate_probe import TIMED, affordable, step_seconds
from fromage_cli.probes.trial_runs.short_runs import SEEDS, longest_steps, planned
from fromage_cli.probes.trial_runs.training import training_rows
from fromage_cli.probes.trial_runs.verification import FACTORS
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.terminal.answer import Estimate

ALONG_THE_STEP = 3.0 + POINTS + len(BELOW) + POINTS + 2.0 * FORWARD
"""Base, chunks, noise floor; the points of the limit by the sum, those below it, further down; the slope; the depth."""
RISE = 11.0 * FORWARD
"""A critical rate that is found within ten tries."""
ELSEWHERE = 1.0 + RISE / 2.0
"""The same on half of the rows, with a gradient of either half."""
HELD = FORWARD + 1.0 / CHUNKS
"""Where the network draws noise: a pass that keeps what all rows draw, and a gradient of the first chunk with it."""
NEW_NETWORK = 1.0
"""Its first gradient, which tells the tensors that receive one."""


@dataclass(frozen=True)
class TrainingCost:
    """What short runs, and those that verify, take."""

    gradients: float = 0.0
    """Of all rows, that are counted."""
    seconds: float = 0.0
    """That the optimizer's own work, and new weights, take beside them."""


@dataclass(frozen=True)
class Measurement:
    """What is computed beside short runs."""

    gradients: float
    """Forward passes among them, each a third of one."""
    points: float
    """Of these gradients, those after a step along a line."""
    products: float
    """Hessian-vector products: one for each line."""
    iterations: int
    """Of Lanczos, each with another product."""


def expected_work(problem: Problem, optimizer: Optimizer, request: Request) -> float:
    """What the progress bar counts: gradients, and what takes as long, of runs that take all of their budget."""
    found = _without_training(problem, optimizer, request, slope=True)
    training = training_cost(problem, optimizer, request)
    return found.gradients + PRODUCT * (found.products + found.iterations) + training.gradients


def estimate(problem: Problem, tensors: Sequence[TrainableTensor], optimizer: Optimizer, request: Request) -> Estimate:
    """The cost where every search takes as many points as it mostly does.

    Raises UsageError where real steps are asked for that the rows do not allow.
    """
    cost = measure_cost(problem, products=True)
    found = _without_training(problem, optimizer, request, slope=cost.product_seconds > 0.0)
    trained = training_cost(problem, optimizer, request, cost.seconds)
    gradients, points = found.gradients + trained.gradients, found.points * (point_seconds(problem) - cost.seconds)
    iteration = iteration_cost(problem, tensors) if found.iterations else IterationCost()
    return Estimate(
        gradients=gradients + cost.equivalent(found.products + found.iterations),
        bytes=cost.memory(copies=6.0 + found.iterations, products=True),
        seconds=cost.time(gradients, found.products) + points + iteration.time(found.iterations) + trained.seconds,
    )


def advise_on_cost(problem: Problem, optimizer: Optimizer, request: Request, whole: Estimate) -> str:
    """The flag that saves most of the time, where short runs take it; else empty."""
    if request.probe == "none" or not whole.seconds:
        return ""
    gradient = whole.seconds / whole.gradients
    runs = training_cost(problem, optimizer, replace(request, verify=0), gradient)
    most = 2.0 * (runs.gradients * gradient + runs.seconds) > whole.seconds
    return "leave out the short runs, which take most of this time, with --probe none." if most else ""


def _without_training(problem: Problem, optimizer: Optimizer, request: Request, *, slope: bool) -> Measurement:
    """Everything but training. `slope`: whether there are Hessian-vector products."""
    along = ALONG_THE_STEP + (POINTS if slope else WITHOUT_SLOPE)
    gradients = gradients_of_draws(problem) + (HELD if problem.draws_noise else 0.0)
    critical = RISE + (CRITICAL if problem.draws_noise else 0.0)
    if optimizer.name is None:
        lines = 1 + len(RULES)
        return Measurement(gradients + lines * along + len(RULES) * critical, lines * along, lines, 0)
    iterations = MAX_PRODUCTS if request.sharpness else 0
    return Measurement(gradients + along + critical + ELSEWHERE, along, 1.0, iterations)


def training_cost(
    problem: Problem, optimizer: Optimizer, request: Request, seconds: float | None = None
) -> TrainingCost:
    """Of short runs and of those that verify; a step is timed where it is told how long a gradient takes.

    Raises UsageError as the runs do: under `auto` there are none where the rows do not allow them.
    """
    if optimizer.name is None or (request.probe == "none" and not request.verify):
        return TrainingCost()
    try:
        rows = training_rows(problem, request.batch_size)
    except UsageError:
        if request.probe in ("init", "checkpoint") or request.verify:
            raise
        return TrainingCost()
    began = time.perf_counter()
    new = request.probe in ("auto", "init") and request.fresh(0) is not None
    drawn, course = time.perf_counter() - began, course_of(request, new)
    if course.ended:
        return TrainingCost()
    part = sum(batch.size for batch in rows.batches) / len(rows.batches) / problem.rows
    judged = FORWARD * sum(batch.size for batch in rows.independent) / problem.rows
    began = time.perf_counter()
    step = 0.0 if seconds is None else step_seconds(MatchedState(problem, optimizer), rows)
    steps, found, beside = 0, 0.0, max(0.0, time.perf_counter() - began - TIMED * step)
    if request.probe != "none":
        runs, steps = planned(request.budget or affordable(step), course, longest_steps(rows))
        steps += 0 if request.budget else TIMED
        found += SEEDS * (NEW_NETWORK + judged) + runs * judged
        beside += SEEDS * drawn
    if request.verify:
        runs = SEEDS * len(FACTORS)
        steps += runs * request.verify
        found += (1 + runs) * judged
    return TrainingCost(found + steps * part, beside + steps * max(0.0, step - part * (seconds or 0.0)))
