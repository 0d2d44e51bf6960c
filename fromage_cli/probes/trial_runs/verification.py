"""Real steps at, below and above a rate: what the loss does with each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.training import training, training_rows

FACTORS = (0.3, 1.0, 3.0)
"""Of the rate to be verified, one run each."""


@dataclass(frozen=True)
class Verification:
    """Losses of real steps at a rate."""

    factor: float
    """Of the rate to be verified."""
    learning_rate: float
    losses: tuple[float, ...]
    """Of each step's own minibatch before the step; it ends where the loss is not finite."""
    start_loss: float
    """On rows that no step sees."""
    end_loss: float | None
    """The same after the last step; None where the loss is not finite."""


def verify(
    matched: MatchedState,
    rate: float,
    steps: int,
    *,
    batch_size: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Verification]:
    """Takes real steps from the checkpoint at 0.3, 1 and 3 times a rate; `advance` is called after every run.

    Raises ResourceError at a limit, the weights put back.
    """
    rows = training_rows(matched.problem, batch_size)
    found = []
    with training(matched) as run:
        start = run.loss(rows.independent)
        for factor in FACTORS:
            run.start(factor * rate)
            losses: list[float] = []
            while len(losses) < steps and (not losses or math.isfinite(losses[-1])):
                losses.append(run.step(rows.batches[len(losses) % len(rows.batches)]))
            end = run.loss(rows.independent)
            finite = tuple(loss for loss in losses if math.isfinite(loss))
            found.append(Verification(factor, factor * rate, finite, start, end if math.isfinite(end) else None))
            advance()
    return found
