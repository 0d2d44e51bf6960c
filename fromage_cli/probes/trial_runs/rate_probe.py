"""The rate to train at, from short training runs: the centre of the least losses, and what it stands for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fromage_cli.missing import Interrupted
from fromage_cli.optimizers.typical_rates import calibration
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.short_runs import PARTS, STEPS, ShortRuns, make_runs
from fromage_cli.probes.trial_runs.training import TrainingRows, training_rows
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.rate_calibration import INTERVAL, LEAST_GAIN, MOST_SPREAD, Calibration, Valley, valley_of_least

Estimator = Literal["probe", "probe-init"]
GUESS = 1e-3
"""Where the search for the first increase begins when nothing else is known."""
ABOVE: dict[Estimator, float] = {"probe-init": 2.0, "probe": 8.0}
"""The highest rate of the runs over the first increase, which is far too high at an initialisation."""
TRAINED = (
    "short runs from trained weights tell little of the rate to train at; they start from new ones where --model names"
    " a factory that draws them"
)
CUT_SHORT = "a limit was reached before all short runs were made"


@dataclass(frozen=True)
class RateProbe:
    """What short runs say about the learning rate."""

    learning_rate: float | None
    """To train at; the typical rate where `reliable` is false, None where no study has one."""
    low: float | None
    """From here …"""
    high: float | None
    """… to here nine of ten best rates lie, where `reliable` is true."""
    gain: float | None
    """1 - the least loss after a run / the loss before."""
    reliable: bool
    """Whether the rate was measured; from a checkpoint it never is, see docs/learning-rate-study.md."""
    reason: str
    """Why it is reliable or not, in words."""
    estimator: Estimator
    """`probe-init` from the re-initialised network, `probe` from the checkpoint."""
    centre: float | None
    """r: the rate around which the losses after the runs are least."""
    spread: float | None
    """Of the least losses around r, in octaves."""
    measured: float | None
    """The rate to train at by the runs alone, reliable or not; None where they do not show one."""
    typical: float | None
    """What trains most small networks; None where no study has one."""
    bracketed: bool
    """Whether the least loss lies between others."""
    rates: tuple[float, ...]
    """Of the runs, rising."""
    losses: tuple[float, ...]
    """After each run; infinite where it diverged."""
    start_loss: float | None
    """Before, on rows that no step saw."""
    steps: int
    """Of each run."""
    gradient_evaluations: float
    """Gradients of training batches that the runs took."""
    rows: str
    """What was trained on, and what the losses are of."""


def measure_rate(
    matched: MatchedState,
    *,
    fresh: Problem | None = None,
    batch_size: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> RateProbe | Interrupted[RateProbe]:
    """Makes short runs, from `fresh` (the network re-initialised) where it is given, else from the problem.

    `batch_size`: the rows of a training batch where a single batch is to be cut. Costs at most 100 gradients of
    training batches, and two gradients and about ten forward passes of all rows; `advance` is called after each of
    RATES runs. A limit interrupts them. Raises MismatchError (a state of another model) and
    UsageError (no such optimizer, too few rows).
    """
    estimator: Estimator = "probe-init" if fresh is not None else "probe"
    optimizer = matched.optimizer
    constants = calibration(optimizer)
    start = MatchedState(fresh, optimizer) if fresh is not None else matched
    rows = training_rows(start.problem, batch_size)
    made = make_runs(
        start,
        rows,
        guess=constants.typical if constants is not None else optimizer.learning_rate or GUESS,
        above=ABOVE[estimator],
        advance=advance,
    )
    if isinstance(made, Interrupted):
        return Interrupted(conclude(made.found, constants, estimator, rows, complete=False), made.error)
    return conclude(made, constants, estimator, rows)


def conclude(
    runs: ShortRuns,
    constants: Calibration | None,
    estimator: Estimator,
    rows: TrainingRows,
    *,
    complete: bool = True,
) -> RateProbe:
    """Concludes from the runs and the constants of a study which rate to train at; `complete`: all runs were made."""
    rates = tuple(sorted(runs.losses))
    losses = tuple(runs.losses[rate] for rate in rates)
    valley = valley_of_least(rates, losses) if any(math.isfinite(loss) for loss in losses) else None
    measured = None
    if valley is not None and constants is not None:
        initial = estimator == "probe-init"
        measured = (constants.from_initialisation if initial else constants.from_checkpoint)(valley.centre)
    typical = constants.typical if constants is not None else None
    doubt = _doubt(runs, constants, estimator, valley) if complete else CUT_SHORT
    size = max(batch.size for batch in rows.batches)
    quarters = f"quarters of them, {size // PARTS} rows" if size >= 2 * PARTS else f"{max(1, size // PARTS)} row"
    found = RateProbe(
        learning_rate=typical,
        low=None,
        high=None,
        gain=runs.gain,
        reliable=doubt is None,
        reason=doubt or f"the best of {len(rates)} short runs from new weights took {runs.gain:.0%} of the loss away",
        estimator=estimator,
        centre=valley.centre if valley is not None else None,
        spread=valley.spread if valley is not None else None,
        measured=measured,
        typical=typical,
        bracketed=runs.bracketed,
        rates=rates,
        losses=losses,
        start_loss=runs.start_loss if math.isfinite(runs.start_loss) else None,
        steps=runs.steps,
        gradient_evaluations=runs.gradients,
        rows=f"{rows.source}; steps on {quarters}",
    )
    if doubt is not None or measured is None:
        return found
    factor = math.exp2(INTERVAL)
    return replace(found, learning_rate=measured, low=measured / factor, high=measured * factor)


def _doubt(runs: ShortRuns, constants: Calibration | None, estimator: Estimator, valley: Valley | None) -> str | None:
    """Why the rate cannot be measured here; None where it can."""
    if constants is None:
        return "no study says how the best rates of short runs and of long ones are related for this optimizer"
    if runs.steps < STEPS:
        return (
            f"training batches that cannot be cut into quarters leave {runs.steps} steps a run; the study has {STEPS}"
        )
    return _doubt_in_losses(runs, valley) or (TRAINED if estimator == "probe" else None)


def _doubt_in_losses(runs: ShortRuns, valley: Valley | None) -> str | None:
    """Why the losses tell no rate; None where they do."""
    if not runs.start_loss > 0.0:
        return f"the loss is {runs.start_loss:.3g} before the first step, and no part of it can be told"
    if valley is None or runs.gain is None or not runs.bracketed:
        return "no rate shows a least loss between others"
    if runs.gain < LEAST_GAIN:
        return (
            f"no short run took more than {max(runs.gain, 0.0):.0%} of the loss away, where {LEAST_GAIN:.0%} is needed:"
            " rates can hardly be told apart here"
        )
    if valley.spread > MOST_SPREAD:
        return (
            f"the losses of the short runs are alike over a factor of {4.0**valley.spread:.2g}, where at most"
            f" {4.0**MOST_SPREAD:.2g} tells a rate"
        )
    return None
