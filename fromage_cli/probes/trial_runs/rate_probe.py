"""The rate to train at, from short training runs together with what is usual."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fromage_cli.missing import Interrupted
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.short_runs import LEAST_BUDGET, WHOLE_BUDGET, Course, ShortRuns, make_runs
from fromage_cli.probes.trial_runs.training import Training, TrainingRows, training
from fromage_cli.theory.rate_calibration import Calibration, Conclusion, WholeRun, conclude
from fromage_cli.theory.rate_curve import ShortRun, gain_of

Estimator = Literal["probe", "probe-init"]
GUESS = 1e-3
"""Where the first runs lie when nothing is usual and no rate is in use."""
SECONDS, MOST_GRADIENTS = 600.0, 400
"""What short runs may take where no budget is given: so long, and at most so many minibatch gradients."""
TOO_FEW = f"short runs need {LEAST_BUDGET} steps or more; --probe-budget {WHOLE_BUDGET} allows them"
TIMED = 3
"""Steps that are timed for this, of which the fastest counts."""


@dataclass(frozen=True)
class RateProbe:
    """What short runs say about the learning rate."""

    conclusion: Conclusion
    estimator: Estimator
    """`probe-init` from new weights, `probe` from the checkpoint."""
    runs: tuple[ShortRun, ...]
    start_losses: tuple[float, ...]
    """Before the runs, on rows that no step saw, by seed."""
    gradients: int
    """Of minibatches, that the runs took."""
    budget: int
    """What they might have taken."""

    @property
    def gain(self) -> float | None:
        """The part of the loss that the best run took away; None without runs, or where the loss was not above 0."""
        return gain_of(self.runs, self.start_losses)


def measure_rate(
    start: Callable[[int], MatchedState],
    rows: TrainingRows,
    course: Course,
    *,
    estimator: Estimator,
    calibration: Calibration | None,
    peak: float | None = None,
    guess: float | None = None,
    budget: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> RateProbe | Interrupted[RateProbe]:
    """Makes short runs and concludes at which rate to train.

    `start` gives the weights and state of a seed; `peak`: the highest rate of the run so far; `guess`: a rate in use;
    `budget`: minibatch gradients, by default what SECONDS allow, at most MOST_GRADIENTS. `advance` is called after
    every run. A limit interrupts them. Raises MismatchError (a state of another model) and UsageError (no such
    optimizer, too few rows).
    """
    if budget is None:
        budget = affordable(step_seconds(start(0), rows))
    whole = WholeRun(course.left, peak, new=estimator == "probe-init", parts=rows.smaller is not None)
    typical = calibration.typical if whole.new and calibration is not None else None
    centre = typical or peak or guess or (GUESS if calibration is None else calibration.typical)
    if budget < LEAST_BUDGET:
        made: ShortRuns | Interrupted[ShortRuns] = ShortRuns()
    else:
        made = make_runs(start, rows, course, guess=centre, budget=budget, advance=advance)
    found = made.found if isinstance(made, Interrupted) else made
    conclusion = conclude(found.runs, found.start_losses, calibration, whole)
    if budget < LEAST_BUDGET:
        conclusion = replace(conclusion, reason=TOO_FEW)
    probe = RateProbe(
        conclusion=conclusion,
        estimator=estimator,
        runs=tuple(found.runs),
        start_losses=tuple(found.start_losses),
        gradients=found.gradients,
        budget=budget,
    )
    return Interrupted(probe, made.error) if isinstance(made, Interrupted) else probe


def affordable(seconds: float) -> int:
    """How many minibatch gradients, at so many seconds each, fit into SECONDS; at most MOST_GRADIENTS."""
    return MOST_GRADIENTS if seconds * MOST_GRADIENTS <= SECONDS else int(SECONDS / seconds)


def step_seconds(start: MatchedState, rows: TrainingRows) -> float:
    """Seconds of a training step with the optimizer's own work: of TIMED, the fastest; of ranks, the slowest."""

    def seconds(run: Training) -> float:
        began = time.perf_counter()
        loss = run.step(rows.batches[0])  # its number is read, so that an accelerator has finished
        return time.perf_counter() - began if math.isfinite(loss) else 0.0

    with training(start) as run:
        fastest = min(seconds(run) for _ in range(TIMED))
    return max(start.problem.ranks.of_each(fastest))  # what rests on it is the same on all of them
