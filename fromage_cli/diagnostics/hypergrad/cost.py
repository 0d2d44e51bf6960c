"""What looking through further steps, and solving for where training would settle, is expected to cost."""

from contextlib import suppress

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.hypergrad.answers import Request
from fromage_cli.diagnostics.hypergrad.result import DELTA_STN
from fromage_cli.errors import MismatchError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import FORWARD, PRODUCT, Cost, measure_cost, timed
from fromage_cli.probes.hypergradients.continued import DRAWS
from fromage_cli.probes.hypergradients.delta_stn import PRODUCTS, DeltaFit
from fromage_cli.probes.hypergradients.differentiable_step import differentiable
from fromage_cli.probes.hypergradients.hyperparameters import EVERYWHERE, hyperparameters, values_of
from fromage_cli.probes.hypergradients.implicit import DRAWS as MASKS
from fromage_cli.probes.hypergradients.implicit import ImplicitResponse
from fromage_cli.probes.hypergradients.step_batches import step_batches
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.unrolled import copies_that_fit, segment_length, unroll
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import training_loss
from fromage_cli.terminal.answer import Estimate

FEW = 3
"""Steps that are timed."""
IN_A_SOLVE = 40
"""Products with the curvature: as many as are allowed, for the least damping that settles is looked for."""
IN_A_FIT = 160
"""Passes of Delta-STN: 110 to 180 on the samples."""


class _Plan:
    """The steps that would be taken and the solves that would be made, and how often."""

    def __init__(self, training: Problem, optimizer: Optimizer, state: OptimizerState | None, request: Request) -> None:
        training.loss = training_loss(training.loss, request.in_loss)
        self.request, self.matched = request, match_state(training, optimizer, state)
        names = [tensor.name for tensor in training.receiving if self.matched.takes(tensor)]
        self.values = values_of(self.matched, optimizer.learning_rate or 0.0, request.in_loss, names)
        available, self.steps, self.few, self.share = [*training.batches, *training.spare], None, None, 0.0
        if request.steps:
            batches = step_batches(available, request.steps, size=request.batch_size, seed=training.seed).batches
            self.steps = TrainingSteps(self.matched, batches, self.values)
            self.few = TrainingSteps(self.matched, batches[:FEW], self.values)
            self.share = batches[0].size / training.rows
        self.moved = [one for one in hyperparameters(self.matched, self.values) if request.moves(one)]
        self.runs = sum(2 * DRAWS if one.place == "dropout" else 2 for one in self.moved) + any(self.moved)
        """Continued runs, the one that changes nothing among them, where none has to be repeated."""
        self.unrolls = optimizer.rule is not None and differentiable(optimizer.rule)
        self.solves = 1 if request.steps else 1 + len(self.moved)
        self.fits = request.settled == DELTA_STN

    @property
    def mask_gradients(self) -> float:
        """Gradients for the cross terms of dropout, in every solve."""
        return 2.0 * MASKS * len(self.values.dropout)

    @property
    def gradients(self) -> float:
        """Gradients of all rows, and what takes as long."""
        back = PRODUCT + 2.0 if self.unrolls else 0.0
        ahead = self.request.steps * self.share * (back + self.runs)
        passes = IN_A_FIT * 2 * len(self.moved) if self.fits else 0
        return 3.0 + ahead + self.solves * (self.mask_gradients + PRODUCT * IN_A_SOLVE) + PRODUCT * passes


def expected_work(training: Problem, optimizer: Optimizer, state: OptimizerState | None, request: Request) -> float:
    """What the progress bar counts: gradients, and what takes as long."""
    return _Plan(training, optimizer, state, request).gradients


def estimate(
    training: Problem, rows: Validation, optimizer: Optimizer, state: OptimizerState | None, request: Request
) -> Estimate:
    """Times a few steps, products and passes as they are then taken, and the validation rows."""
    plan = _Plan(training, optimizer, state, request)
    cost = measure_cost(training, products=True)
    seconds, states = cost.time(3), 4
    if plan.steps is not None and plan.few is not None:
        copies = copies_that_fit(plan.steps) if plan.unrolls else None
        seconds += _seconds_ahead(plan, plan.few, rows, again=copies is not None)
        slots = 1 + sum(slot != "step" for slot in plan.few.record.slots)
        states = slots * (request.steps if copies is None else 2 * segment_length(request.steps)) + 8
    with suppress(MismatchError):  # of what has no such answer
        seconds += _seconds_of_solves(plan, rows, cost)
    gradients = plan.gradients + FORWARD * plan.runs
    return Estimate(gradients=gradients, bytes=cost.memory(copies=states, products=True), seconds=seconds)


def _seconds_ahead(plan: _Plan, few: TrainingSteps, rows: Validation, *, again: bool) -> float:
    """The steps forwards, backwards and with each hyperparameter moved; `again`: most are taken twice for the way back.

    What a first run takes longer counts once.
    """
    problem, steps = few.problem, plan.request.steps

    def forward() -> None:
        with few.from_checkpoint() as start:
            few.run(start, plan.values)

    def back() -> None:
        unroll(few, rows, plan.values)

    judged, first = timed(problem, rows.problem.value), timed(problem, forward)
    whole = timed(problem, forward)
    step, seconds = whole / len(few.batches), first - whole
    if plan.unrolls:
        first, whole = timed(problem, back), timed(problem, back)
        each = max(0.0, whole - 5.0 * judged) / len(few.batches)  # a loss and a gradient of the validation rows
        seconds += first - whole + 5.0 * judged + (each + (step if again else 0.0)) * steps
    return seconds + plan.runs * (step * steps + judged)


def _seconds_of_solves(plan: _Plan, rows: Validation, cost: Cost) -> float:
    """The solves for where training would settle, and the fit of Delta-STN.

    Raises MismatchError where there is no such answer.
    """
    request, problem = plan.request, plan.matched.problem
    solver = ImplicitResponse(
        plan.matched,
        rows,
        plan.values,
        curvature="hessian" if request.settled == "hessian" else "gauss-newton",
        steps=request.horizon,
    )
    response = solver.response
    validated = timed(problem, lambda: response.validation_gradient(rows))
    forces = timed(problem, lambda: response.loss_forces)
    with response.operator() as operator:
        first, product = (timed(problem, lambda: operator(response.decay_force)) for _ in range(2))
    solve = IN_A_SOLVE * product + validated + cost.seconds * plan.mask_gradients
    seconds = first + forces + plan.solves * solve
    if plan.fits:
        fit = DeltaFit(response, [one for one in plan.moved if one.scope == EVERYWHERE])
        first, each = (timed(problem, lambda: fit.objective(fit.draw())) for _ in range(2))
        seconds += first + IN_A_FIT * each + PRODUCTS * product
    return seconds
