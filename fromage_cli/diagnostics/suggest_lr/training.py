"""The rate to train at: short training runs where they can be made, else the typical rate, and real steps to check."""

from collections.abc import Callable
from dataclasses import dataclass

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.diagnostics.suggest_lr.course import Course, gradients
from fromage_cli.diagnostics.suggest_lr.result import LIMIT, Estimate, ProbeRun, Recommended, VerifiedRun
from fromage_cli.errors import FromageError, MismatchError, ResourceError, UsageError
from fromage_cli.optimizers.typical_rates import typical_rate
from fromage_cli.probes.trial_runs.rate_probe import RateProbe, measure_rate
from fromage_cli.probes.trial_runs.verification import verify
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.perceptron import Perceptron
from fromage_cli.terminal.words import counted


@dataclass(frozen=True)
class Trained:
    """What short runs told, or why there are none."""

    recommended: Recommended
    runs: tuple[ProbeRun, ...] = ()
    steps: int | None = None
    note: str = ""


def typical(course: Course) -> float | None:
    """Adds the typical rate of the optimizer to the estimates."""
    rate, source = typical_rate(course.optimizer)
    course.estimates.append(Estimate("typical", course.eta(rate), rate, source, 0.0))
    return rate


def recommend(
    course: Course,
    mode: str,
    fresh: Callable[[], Problem | None],
    state: OptimizerState | None,
    batch_size: int | None,
) -> Trained:
    """The rate to train at.

    `mode`: `init` from new weights, `checkpoint` from these, `auto` the first where `fresh` makes a network, `none`.
    Raises UsageError for `init` where it makes none.
    """
    usual = typical(course)
    if mode == "none":
        return Trained(_typical(course, usual, "no short runs were asked for"))
    if isinstance(course.error, ResourceError):
        return Trained(_typical(course, usual, LIMIT))
    before = gradients(course.problem.evaluations)
    again = None
    try:
        again = fresh() if mode in ("auto", "init") else None
        if again is None and mode == "init":
            raise UsageError(
                "--probe init needs a network that draws new weights; this one comes with its own.",
                "Name a factory with --model.",
            )
        found = measure_rate(
            course.problem, course.optimizer, state, fresh=again, batch_size=batch_size, advance=course.advance
        )
    except ResourceError as limit:
        course.error = limit
        return Trained(_typical(course, usual, LIMIT))
    except (MismatchError, UsageError) as error:
        if mode != "auto":
            raise
        return Trained(_typical(course, usual, error.message.splitlines()[0]))
    if found.stopped is not None:
        course.error = found.stopped
    start = _start(again)
    return _concluded(course, found, usual, gradients(course.problem.evaluations) - before, start)


def _start(again: Problem | None) -> str:
    """What short runs start from, in words."""
    if again is None:
        return "these weights"
    if isinstance(again.model, Perceptron):
        return "new weights as torch draws them, since the network was rebuilt without its factory"
    return "new weights of the network's factory"


def _concluded(course: Course, found: RateProbe, usual: float | None, cost: float, start: str) -> Trained:
    words = f"{counted(len(found.rates), 'short run')}; of {counted(found.steps, 'step')} from {start}"
    course.estimates.append(Estimate(found.estimator, course.eta(found.measured), found.measured, words, cost))
    runs = tuple(ProbeRun(rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True))
    if not found.reliable:
        recommended = _typical(course, usual, found.reason, found.gain)
    else:
        recommended = Recommended(
            learning_rate=found.learning_rate,
            eta=course.eta(found.learning_rate),
            low=found.low,
            high=found.high,
            estimator=found.estimator,
            reason=found.reason,
            reliable=True,
            gain=found.gain,
        )
    return Trained(recommended, runs, found.steps, f"probe: from {start}; {found.rows}.")


def _typical(course: Course, rate: float | None, reason: str, gain: float | None = None) -> Recommended:
    name = "typical" if rate is not None else None
    return Recommended(rate, course.eta(rate), None, None, name, reason, False, gain)


def check(
    course: Course, rate: float | None, steps: int, state: OptimizerState | None, batch_size: int | None
) -> tuple[VerifiedRun, ...]:
    """Real steps at 0.3, 1 and 3 times a rate; none where a limit was reached, or there is no rate.

    Raises UsageError where no steps can be taken.
    """
    if rate is None or isinstance(course.error, ResourceError):
        return ()
    try:
        found = verify(
            course.problem, course.optimizer, state, rate, steps, batch_size=batch_size, advance=course.advance
        )
    except FromageError as error:
        if not isinstance(error, ResourceError):
            raise
        course.error = error
        return ()
    return tuple(VerifiedRun(run.factor, run.learning_rate, run.losses, run.start_loss, run.end_loss) for run in found)
