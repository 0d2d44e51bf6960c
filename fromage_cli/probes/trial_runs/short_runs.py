"""Short training runs at several rates, each a whole run along the user's schedule, from the same weights.

The schedule is compressed: each step of a short run stands for an equal part of the real run and has its rate. First
come short runs far apart, then longer ones close together around the best. Then come the same again from other weights
and with the batches in another order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fromage_cli.errors import ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.training import Training, TrainingRows, training
from fromage_cli.theory.rate_curve import ShortRun, best_rate
from fromage_cli.theory.schedules import Schedule

FIRST_STEPS, FIRST_APART, FIRST_RATES = 12, 4.0, 7
"""Of the runs that come first: their steps, the factor between two rates, and how many rates there are."""
CLOSE_APART, CLOSE_RATES = 2.0, 4
"""Of the longer runs around the best rate; they have twice the steps, then four times, and so on."""
SEEDS = 2
"""Of weights, where new ones are drawn, and of the order of the batches."""
BEYOND = 3
"""Rates beyond an end at which the loss is least that are tried at most."""
WHOLE_BUDGET = FIRST_STEPS * FIRST_RATES * SEEDS + 2 * FIRST_STEPS * CLOSE_RATES * SEEDS
"""Minibatch gradients of all runs of both seeds up to twice the steps; more told rates no better."""
MOST_PASSES = 6
"""How often a run takes each batch at most: longer runs on so few batches told worse rates."""
LITTLE = 0.05
"""Share of the peak below which no step tells what the peak should be."""
LEAST_BUDGET = FIRST_STEPS * FIRST_RATES
"""Minibatch gradients of the first runs of one seed."""


@dataclass
class ShortRuns:
    """What the runs have shown so far."""

    runs: list[ShortRun] = field(default_factory=list)
    start_losses: list[float] = field(default_factory=list)
    """Of rows that no step saw, before the first step, by seed."""
    gradients: int = 0
    """Of minibatches."""


@dataclass(frozen=True)
class Course:
    """The part of the user's run that short runs imitate."""

    schedule: Schedule = field(default_factory=Schedule)
    first: float = 0.0
    """Updates made before."""

    @property
    def ended(self) -> bool:
        """Whether too little is left of a schedule that changes the rate: few steps, or all far below its peak."""
        if self.schedule.constant_from(self.first):
            return self.schedule.rate_factor(self.first) < LITTLE
        if self.schedule.end is None or self.first == 0.0:
            return False
        return self.left is None or self.left < FIRST_STEPS or max(self.factors(FIRST_STEPS)) < LITTLE

    @property
    def left(self) -> float | None:
        """How many steps are left; None where the end is not known, or passed."""
        end = self.schedule.end
        return None if end is None or self.first >= end else end - self.first

    def factors(self, steps: int) -> list[float]:
        """The shares of the peak rate of a run with so many steps, at most those that are left."""
        if self.left is None:
            return [self.schedule.rate_factor(self.first + step) for step in range(steps)]
        return [factor for *_, factor in self.schedule.pieces(self.first, self.first + self.left, steps)]


def longest_steps(rows: TrainingRows) -> int:
    """The most steps that a run takes on these batches."""
    return max(MOST_PASSES * len(rows.batches), FIRST_STEPS)


def planned(budget: int, course: Course, most: int) -> tuple[int, int]:
    """How many runs a budget allows, and their steps in all, where the least loss lies between the first rates.

    `most`: the steps of the longest run.
    """
    if course.ended:
        return 0, 0
    runs, spent, steps = 0, 0, FIRST_STEPS
    sweeps = [(FIRST_STEPS, FIRST_RATES), *[(2 * FIRST_STEPS, CLOSE_RATES)] * SEEDS, (FIRST_STEPS, FIRST_RATES)]
    while sweeps:
        length, rates = sweeps.pop(0)
        made = len(course.factors(length))
        if length > FIRST_STEPS and (made < length or length > most):
            break
        if spent + made * rates > budget:
            continue
        runs, spent = runs + rates, spent + made * rates
        if not sweeps:
            steps = 4 * FIRST_STEPS if steps == FIRST_STEPS else 2 * steps
            sweeps = [(steps, CLOSE_RATES)] * SEEDS
    return runs, spent


def make_runs(
    start: Callable[[int], MatchedState],
    rows: TrainingRows,
    course: Course,
    *,
    guess: float,
    budget: int,
    advance: Callable[[], None] = lambda: None,
) -> ShortRuns | Interrupted[ShortRuns]:
    """Makes runs from SEEDS starts until so many minibatch gradients are spent.

    `start` gives the weights and the state of a seed. The first rates lie around `guess`. Runs at several rates are
    begun only where all of them fit into the rest of the budget. A limit interrupts them.
    """
    series = _Series(ShortRuns(), start, rows, course, budget, advance)
    try:
        rates = [guess * FIRST_APART ** (place - FIRST_RATES // 2) for place in range(FIRST_RATES)]
        series.sweep(0, FIRST_STEPS, rates)
        for _ in range(BEYOND):
            beyond = series.rate_beyond()
            if beyond is None:
                break
            rates.append(beyond)
            series.sweep(0, FIRST_STEPS, [beyond])
        steps, spent = FIRST_STEPS, -1
        while spent < series.made.gradients:
            spent, steps = series.made.gradients, 2 * steps
            centre = best_rate(series.made.runs, series.made.start_losses)
            if centre is None or len(course.factors(steps)) < steps or steps > longest_steps(rows):
                break
            close = [centre * CLOSE_APART ** (place - 0.5 * (CLOSE_RATES - 1)) for place in range(CLOSE_RATES)]
            for seed in range(SEEDS):
                series.sweep(seed, steps, close)
            if steps == 2 * FIRST_STEPS:
                nearest = sorted(rates, key=lambda rate: abs(math.log(rate / centre)))[:FIRST_RATES]
                series.sweep(SEEDS - 1, FIRST_STEPS, sorted(nearest))
    except ResourceError as limit:
        return Interrupted(series.made, limit)
    return series.made


@dataclass
class _Series:
    """What every run is made of."""

    made: ShortRuns
    start: Callable[[int], MatchedState]
    rows: TrainingRows
    course: Course
    budget: int
    advance: Callable[[], None]
    held: tuple[int, MatchedState] | None = None
    """The seed that was trained last, and its start."""

    def sweep(self, seed: int, steps: int, rates: Sequence[float]) -> None:
        """A run at every rate, all or none of them as the budget allows."""
        factors = self.course.factors(steps)
        if self.made.gradients + len(factors) * len(rates) > self.budget:
            return
        if self.held is None or self.held[0] != seed:
            self.held = None  # one network at a time
            self.held = seed, self.start(seed)
        with training(self.held[1]) as run:
            if seed == len(self.made.start_losses):
                self.made.start_losses.append(run.loss(self.rows.independent))
            for rate in rates:
                self._add(run, seed, rate, factors)
                self.advance()

    def _add(self, run: Training, seed: int, rate: float, factors: Sequence[float]) -> None:
        """One run, which ends early where its loss is not finite."""
        run.start(rate)
        batches = self.rows.in_order(seed)
        loss = 0.0
        for step, factor in enumerate(factors):
            loss = run.step(batches[step % len(batches)], factor)
            if not math.isfinite(loss):
                break
        self.made.gradients += len(factors)
        after = run.loss(self.rows.independent) if math.isfinite(loss) else math.inf
        self.made.runs.append(ShortRun(rate, len(factors), seed, after if math.isfinite(after) else math.inf))

    def rate_beyond(self) -> float | None:
        """A rate beyond the end of the first rates at which the loss is least; None where it lies between others."""
        losses = {run.learning_rate: run.loss for run in self.made.runs}
        if not losses:
            return None
        lowest, highest, least = min(losses), max(losses), min(losses, key=losses.__getitem__)
        if least == lowest:
            return lowest / FIRST_APART
        return highest * FIRST_APART if least == highest else None
