"""The rate to train at, from short training runs at several rates: the rate of least loss, and what it stands for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.probes.critical import critical_rate
from fromage_cli.probes.next_step import next_step
from fromage_cli.probes.optimizer import Optimizer, state_of
from fromage_cli.probes.training import Training, TrainingRows, training, training_rows
from fromage_cli.problem.problem import Problem
from fromage_cli.theory.curves import minimum
from fromage_cli.theory.rate_calibration import INTERVAL, LEAST_GAIN, Calibration, calibration

STEPS = 20
RATES = 5
APART = 4.0
"""The factor between two rates."""
Estimator = Literal["probe", "probe-init"]


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
    """1 - the least loss after the runs / the loss before."""
    reliable: bool
    """Whether the rate was measured."""
    reason: str
    """Why it is reliable or not, in words."""
    estimator: Estimator
    """`probe-init` from the re-initialised network, `probe` from the checkpoint."""
    best: float | None
    """r: the rate of least loss after the runs, by a parabola in its logarithm."""
    measured: float | None
    """The rate to train at by the runs alone, reliable or not; None where they do not show one."""
    typical: float | None
    """What trains most small networks; None where no study has one."""
    rates: tuple[float, ...]
    """Of the runs, rising."""
    losses: tuple[float, ...]
    """After each run, on rows that no step saw; infinite where it left the numbers."""
    start_loss: float | None
    """Before."""
    steps: int
    """Of each run."""
    gradient_evaluations: float
    """Gradients of minibatches that the runs took."""
    rows: str
    """What was trained on, and what the losses are of."""
    stopped: ResourceError | None = None
    """The limit that ended the runs early."""


@dataclass
class _Runs:
    losses: dict[float, float] = field(default_factory=dict)
    start_loss: float = math.nan
    gradients: float = 0.0
    stopped: ResourceError | None = None


def measure_rate(
    problem: Problem,
    optimizer: Optimizer,
    state: OptimizerState | None,
    *,
    fresh: Problem | None = None,
    batch_size: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> RateProbe:
    """Short runs of the optimizer, from `fresh` (the network re-initialised) where it is given, else from the problem.

    `state` is the optimizer's at the problem's weights; `batch_size` the rows of a minibatch where one batch is to be
    cut. Costs at most 100 minibatch gradients, two gradients and about ten forward passes of all rows; `advance` is
    called after every run. A limit that is reached leaves what was measured. Raises MismatchError (a state of another
    model) and UsageError (no such optimizer, too few rows).
    """
    start = fresh if fresh is not None else problem
    own_state = None if fresh is not None else state_of(optimizer, state)
    rows = training_rows(start, batch_size)
    runs = _run(start, optimizer, own_state, rows, advance)
    constants = calibration(optimizer.name, optimizer.momentum)
    estimator: Estimator = "probe-init" if fresh is not None else "probe"
    return _conclude(runs, constants, estimator, rows)


def _run(
    problem: Problem,
    optimizer: Optimizer,
    state: OptimizerState | None,
    rows: TrainingRows,
    advance: Callable[[], None],
) -> _Runs:
    runs = _Runs()
    try:
        with training(problem, optimizer, state) as run:
            runs.start_loss = run.loss(rows.independent)
            centre = _centre(problem, optimizer, state)
            for place in sorted(range(RATES), key=lambda place: abs(place - RATES // 2)):
                rate = centre * APART ** (place - RATES // 2)
                runs.losses[rate] = loss_after(run, rate, rows)
                runs.gradients = run.steps
                advance()
    except ResourceError as limit:
        runs.stopped = limit
    return runs


def _centre(problem: Problem, optimizer: Optimizer, state: OptimizerState | None) -> float:
    """The first increase of the loss along the next step; the typical rate where no step lowers it."""
    constants = calibration(optimizer.name, optimizer.momentum)
    guess = constants.typical if constants is not None else optimizer.learning_rate or 1e-3
    try:
        step, _ = next_step(problem, optimizer, state)
        return critical_rate(problem, step, guess) or guess
    except NumericalError:
        return guess


def loss_after(run: Training, rate: float, rows: TrainingRows, steps: int = STEPS) -> float:
    """The loss on independent rows after a run at a rate; infinite where it leaves the numbers."""
    run.start(rate)
    for step in range(steps):
        if not math.isfinite(run.step(rows.batches[step % len(rows.batches)])):
            return math.inf
    loss = run.loss(rows.independent)
    return loss if math.isfinite(loss) else math.inf


def _conclude(runs: _Runs, constants: Calibration | None, estimator: Estimator, rows: TrainingRows) -> RateProbe:
    rates = tuple(sorted(runs.losses))
    losses = tuple(runs.losses[rate] for rate in rates)
    best = minimum(rates, losses, runs.start_loss).eta
    measured = None
    if best is not None and constants is not None:
        scale = constants.from_initialisation if estimator == "probe-init" else constants.from_checkpoint
        measured = scale(best)
    gain = 1.0 - min(losses) / runs.start_loss if losses and runs.start_loss > 0.0 else None
    reason = _doubt(runs, gain, best, constants)
    found = RateProbe(
        learning_rate=constants.typical if constants is not None else None,
        low=None,
        high=None,
        gain=gain,
        reliable=reason is None,
        reason=reason or f"the best of {len(rates)} short runs took {gain:.0%} of the loss away",
        estimator=estimator,
        best=best,
        measured=measured,
        typical=constants.typical if constants is not None else None,
        rates=rates,
        losses=losses,
        start_loss=runs.start_loss if math.isfinite(runs.start_loss) else None,
        steps=STEPS,
        gradient_evaluations=runs.gradients,
        rows=rows.source,
        stopped=runs.stopped,
    )
    if reason is not None or measured is None:
        return found
    factor = math.exp2(INTERVAL)
    return replace(found, learning_rate=measured, low=measured / factor, high=measured * factor)


def _doubt(runs: _Runs, gain: float | None, best: float | None, constants: Calibration | None) -> str | None:
    """Why the rate cannot be measured here; None where it can."""
    if runs.stopped is not None:
        return "a limit was reached before all short runs were made"
    if constants is None:
        return "no study says how the best rate of short runs and of long ones are related for this optimizer"
    if gain is None or best is None:
        return "no short run shows a least loss between others"
    if gain < LEAST_GAIN:
        return (
            f"no short run took more than {max(gain, 0.0):.0%} of the loss away, {LEAST_GAIN:.0%} is needed: "
            "rates can hardly be told apart here"
        )
    return None


@dataclass(frozen=True)
class Verification:
    """Losses of real steps at a rate."""

    factor: float
    """Of the rate to be verified."""
    learning_rate: float
    losses: tuple[float, ...]
    """Of each step's own minibatch before the step; it ends where the loss leaves the numbers."""
    start_loss: float
    """On rows that no step sees."""
    end_loss: float | None
    """The same after the last step; None where the loss left the numbers."""


FACTORS = (0.3, 1.0, 3.0)


def verify(
    problem: Problem,
    optimizer: Optimizer,
    state: OptimizerState | None,
    rate: float,
    steps: int,
    *,
    batch_size: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Verification]:
    """Real steps from the checkpoint at 0.3, 1 and 3 times a rate; `advance` is called after every run.

    Raises ResourceError at a limit, the weights put back.
    """
    rows = training_rows(problem, batch_size)
    found = []
    with training(problem, optimizer, state_of(optimizer, state)) as run:
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
