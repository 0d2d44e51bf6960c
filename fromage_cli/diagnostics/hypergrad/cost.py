"""What looking through further steps is expected to cost."""

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.hypergrad.measure import Request
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import FORWARD, PRODUCT, measure_cost, timed
from fromage_cli.probes.hypergradients.continued import DRAWS
from fromage_cli.probes.hypergradients.differentiable_step import differentiable
from fromage_cli.probes.hypergradients.hyperparameters import EVERYWHERE, hyperparameters, values_of
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


class _Plan:
    """The steps that would be taken, and how often."""

    def __init__(self, training: Problem, optimizer: Optimizer, state: OptimizerState | None, request: Request) -> None:
        training.loss = training_loss(training.loss, request.in_loss)
        matched = match_state(training, optimizer, state)
        names = [tensor.name for tensor in training.receiving if matched.takes(tensor)]
        self.values = values_of(matched, optimizer.learning_rate or 0.0, request.in_loss, names)
        available, self.steps, self.few = [*training.batches, *training.spare], None, None
        if request.steps:
            batches = step_batches(available, request.steps, size=request.batch_size, seed=training.seed).batches
            self.steps = TrainingSteps(matched, batches, self.values)
            self.few = TrainingSteps(matched, batches[:FEW], self.values)
        asked = hyperparameters(matched, self.values)
        moved = [one for one in asked if one.scope == EVERYWHERE and one.place != "rate"]
        self.runs = sum(2 * DRAWS if one.place == "dropout" else 2 for one in moved) + any(moved)
        """Continued runs, the one that changes nothing among them."""
        self.share = (batches[0].size / training.rows) if self.steps is not None else 0.0
        self.unrolls = optimizer.rule is not None and differentiable(optimizer.rule)


def expected_work(training: Problem, optimizer: Optimizer, state: OptimizerState | None, request: Request) -> float:
    """What the progress bar counts: gradients, and what takes as long."""
    plan = _Plan(training, optimizer, state, request)
    if plan.steps is None:
        return 1.0
    back = (PRODUCT + 2.0) if plan.unrolls else 0.0
    return 1.0 + request.steps * plan.share * (back + plan.runs)


def estimate(
    training: Problem, rows: Validation, optimizer: Optimizer, state: OptimizerState | None, request: Request
) -> Estimate:
    """Times a few steps forwards and backwards as they are then taken, and the validation rows."""
    plan = _Plan(training, optimizer, state, request)
    cost = measure_cost(training, products=True)
    gradients, seconds, states = 2.0, cost.time(2), 4
    if plan.steps is not None and plan.few is not None:
        few, copies = plan.few, copies_that_fit(plan.steps) if plan.unrolls else None

        def forward() -> None:
            with few.from_checkpoint() as start:
                few.run(start, plan.values)

        judged = timed(training, rows.problem.value)
        timed(training, forward)
        step = timed(training, forward) / len(few.batches)
        whole, again = step * request.steps, 0.0
        if plan.unrolls:
            timed(training, lambda: unroll(few, rows, plan.values))
            back = max(0.0, timed(training, lambda: unroll(few, rows, plan.values)) - 5 * judged) / len(few.batches)
            again = (back + (step if copies is not None else 0.0)) * request.steps + 5 * judged
        seconds += again + plan.runs * (whole + judged)
        share = plan.share * request.steps
        gradients += share * (plan.runs + (PRODUCT + 2.0 if plan.unrolls else 0.0)) + FORWARD * plan.runs
        slots = 1 + sum(slot != "step" for slot in few.record.slots)
        states = slots * (2 * segment_length(request.steps) if copies is not None else request.steps) + 8
    return Estimate(gradients=gradients, bytes=cost.memory(copies=states, products=True), seconds=seconds)
