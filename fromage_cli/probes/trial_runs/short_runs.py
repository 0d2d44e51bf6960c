"""Short training runs at several rates from the same weights, on the same minibatches in the same order.

Their minibatches are quarters of the training batches: four steps for the price of one tell more of a rate.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_step import next_step
from fromage_cli.probes.trial_runs.training import Training, TrainingRows, training
from fromage_cli.problem.data.batches import Batch

STEPS = 60
"""Of each run; fewer where training batches cannot be cut, so that runs cost the same."""
PARTS = 4
"""Minibatches that a training batch is cut into."""
RATES = 6
"""Learning rates that are tried at least, one run each."""
APART = 4.0
"""The factor between two rates."""
LARGEST_GRADIENTS = 100.0
"""Of training batches, that all runs together may take."""
FLOOR = 1e-9
"""Part of the loss before the runs below which it counts as this: a loss of zero has no logarithm."""
TAIL = 4
"""The last steps of a run whose losses count are one part in this."""


@dataclass
class ShortRuns:
    """What the runs have shown so far."""

    steps: int = STEPS
    """Of each run."""
    losses: dict[float, float] = field(default_factory=dict)
    """By rate: the geometric mean of the loss of independent rows after the run and of the minibatches' mean loss over
    its last quarter; infinite where the run diverged."""
    start_loss: float = math.nan
    """Of the independent rows, before."""
    end_losses: dict[float, float] = field(default_factory=dict)
    """By rate: of the independent rows, after."""
    gradients: float = 0.0
    """Of training batches."""

    @property
    def gain(self) -> float | None:
        """1 - the least loss of independent rows after a run / the loss before; None where there is no such share."""
        finite = [loss for loss in self.end_losses.values() if math.isfinite(loss)]
        return 1.0 - min(finite) / self.start_loss if finite and self.start_loss > 0.0 else None

    @property
    def bracketed(self) -> bool:
        """Whether the least loss lies between others."""
        rates = sorted(self.losses)
        least = min(self.losses, key=self.losses.__getitem__, default=None)
        return len(rates) > 2 and least not in (rates[0], rates[-1])

    @property
    def rate_beyond(self) -> float:
        """A rate beyond the end of the rates at which the loss is least."""
        lowest, highest = min(self.losses), max(self.losses)
        least = min(sorted(self.losses), key=self.losses.__getitem__)
        return highest * APART if least == highest and math.isfinite(self.losses[least]) else lowest / APART


def make_runs(
    matched: MatchedState, rows: TrainingRows, *, guess: float, above: float, advance: Callable[[], None] = lambda: None
) -> ShortRuns | Interrupted[ShortRuns]:
    """Makes runs at RATES rates, the highest `above` times the first increase of the loss along the next step.

    Where runs diverged early, the gradients that they left are spent beyond the end at which the loss is least. `guess`
    stands in where no step lowers the loss. A limit interrupts them.
    """
    parts = []
    for batch in rows.batches:
        size = max(1, batch.size // PARTS)
        # rows left over belong to no part: all are equal
        parts += [batch.rows(start, start + size) for start in range(0, batch.size - size + 1, size)]
    share = max(part.size for part in parts) / max(batch.size for batch in rows.batches)
    steps = min(STEPS, int(STEPS / (PARTS * share)))
    runs = ShortRuns(steps)
    series = _Series(runs, parts, rows.independent, share)
    try:
        with training(matched) as run:
            runs.start_loss = run.loss(rows.independent)
            first_increase = guess
            with suppress(NumericalError):
                step, _ = next_step(matched)
                first_increase = critical_rate(matched.problem, step, guess) or guess
            rate = above * first_increase
            for _ in range(RATES):
                series.add(run, rate)
                advance()
                rate /= APART
            while not runs.bracketed and runs.gradients + steps * share <= LARGEST_GRADIENTS:
                series.add(run, runs.rate_beyond)
    except ResourceError as limit:
        return Interrupted(runs, limit)
    return runs


@dataclass
class _Series:
    """What every run is made of."""

    runs: ShortRuns
    parts: list[Batch]
    independent: tuple[Batch, ...]
    share: float
    """Rows of a part over those of a training batch."""

    def add(self, run: Training, rate: float) -> None:
        """One more run."""
        runs = self.runs
        run.start(rate)
        losses: list[float] = []
        while len(losses) < runs.steps and (not losses or math.isfinite(losses[-1])):
            losses.append(run.step(self.parts[len(losses) % len(self.parts)]))
            runs.gradients += self.share
        after = run.loss(self.independent) if math.isfinite(losses[-1]) else math.inf
        runs.end_losses[rate] = after if math.isfinite(after) else math.inf
        last = losses[-max(1, runs.steps // TAIL) :]
        tail, floor = math.fsum(last) / len(last), FLOOR * runs.start_loss
        meaningful = math.isfinite(after) and floor > 0.0
        runs.losses[rate] = math.sqrt(max(after, floor)) * math.sqrt(max(tail, floor)) if meaningful else math.inf
