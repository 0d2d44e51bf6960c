"""Training at, below and above a rate, along the user's schedule: which of the three ends lowest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.short_runs import SEEDS, Course
from fromage_cli.probes.trial_runs.training import Training, TrainingRows, training
from fromage_cli.problem.data.batches import Batch

DISTINCT = {3: 4.0, 2: 12.0}
"""By so many standard deviations of a run the second best must end higher. The key: how many rates ended in numbers. Of
rates that are alike one is called best in 3 and 5 % of cases."""
FACTORS = (1.0 / 3.0, 1.0, 3.0)
"""Of the rate to be verified, one run each for every order of the batches."""


@dataclass(frozen=True)
class Verification:
    """Real steps at one rate."""

    factor: float
    """Of the rate to be verified."""
    learning_rate: float
    losses: tuple[float, ...]
    """Of each step's own minibatch before the step, in the first order; it ends where the loss is not finite."""
    start_loss: float
    """On rows that no step sees."""
    ends: tuple[float, ...]
    """The same after the last step, for each order of the batches; infinite where the loss is not finite."""

    @property
    def end_loss(self) -> float:
        """Their mean."""
        return math.fsum(self.ends) / len(self.ends)


def verify(
    matched: MatchedState,
    rate: float,
    rows: TrainingRows,
    course: Course,
    steps: int,
    *,
    advance: Callable[[], None] = lambda: None,
) -> list[Verification]:
    """Trains from the checkpoint at FACTORS times a rate, twice each with the batches in another order.

    Each run follows the schedule, compressed into its steps; `advance` is called after every run. Raises ResourceError
    at a limit, the weights put back.
    """
    found = []
    with training(matched) as run:
        start = run.loss(rows.independent)
        for factor in FACTORS:
            ends: list[float] = []
            series: list[tuple[float, ...]] = []
            for order in range(SEEDS):
                series.append(_trained(run, factor * rate, rows.in_order(order), course.factors(steps)))
                end = run.loss(rows.independent)
                ends.append(end if math.isfinite(end) else math.inf)
                advance()
            found.append(Verification(factor, factor * rate, series[0], start, tuple(ends)))
    return found


def _trained(run: Training, rate: float, batches: Sequence[Batch], factors: Sequence[float]) -> tuple[float, ...]:
    """The finite losses of one run."""
    run.start(rate)
    losses: list[float] = []
    for step, factor in enumerate(factors):
        loss = run.step(batches[step % len(batches)], factor)
        if not math.isfinite(loss):
            break
        losses.append(loss)
    return tuple(losses)


def best_of(runs: Sequence[Verification]) -> Verification | None:
    """The run that ends lowest; None where another one is not above it by DISTINCT standard deviations.

    The deviation is that of one run from order to order of the batches, less what all rates share. None where every
    order gives the same, as with one batch, for then nothing tells it.
    """
    finite = sorted((run for run in runs if math.isfinite(run.end_loss)), key=lambda run: run.end_loss)
    if len(finite) < 2:
        return finite[0] if finite else None
    if all(end == run.end_loss for run in finite for end in run.ends):
        return None
    shared = [math.fsum(run.ends[order] - run.end_loss for run in finite) / len(finite) for order in range(SEEDS)]
    squares = [(run.ends[order] - run.end_loss - shared[order]) ** 2 for run in finite for order in range(SEEDS)]
    deviation = math.sqrt(math.fsum(squares) / (len(finite) - 1))
    return finite[0] if finite[1].end_loss - finite[0].end_loss > DISTINCT[len(finite)] * deviation else None
