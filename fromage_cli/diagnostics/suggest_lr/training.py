"""The rate to train at: short training runs where they can be made, else the typical rate, and real steps to check."""

from collections.abc import Callable
from dataclasses import dataclass

from fromage_cli.diagnostics.suggest_lr.partial_measurement import PartialMeasurement, gradients
from fromage_cli.diagnostics.suggest_lr.result import Estimate, ProbeRun, Recommended, VerifiedRun
from fromage_cli.errors import FromageError, MismatchError, ResourceError, UsageError
from fromage_cli.missing import LIMIT_REACHED, Basis, Missing, Why, failed
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


def typical(measuring: PartialMeasurement) -> float | Missing:
    """Adds the typical rate of the optimizer to the estimates."""
    rate, source = typical_rate(measuring.optimizer)
    measuring.estimates.append(Estimate("typical", measuring.eta(rate), rate, source, 0.0))
    return rate


def recommend(
    measuring: PartialMeasurement,
    mode: str,
    fresh: Callable[[], Problem | None],
    batch_size: int | None,
) -> Trained:
    """The rate to train at.

    `mode`: `init` from new weights, `checkpoint` from these, `auto` the first where `fresh` makes a network, `none`.
    Raises UsageError for `init` where it makes none.
    """
    usual = typical(measuring)
    if mode == "none":
        return Trained(_typical(measuring, usual, Missing(Why.NOT_ASKED, "no short runs were asked for")))
    if isinstance(measuring.error, ResourceError):
        return Trained(_typical(measuring, usual, LIMIT_REACHED))
    before = gradients(measuring.problem.evaluations)
    again = None
    try:
        again = fresh() if mode in ("auto", "init") else None
        if again is None and mode == "init":
            raise UsageError(
                "--probe init needs a network that draws new weights; this one comes with its own.",
                "Name a factory with --model.",
            )
        found = measure_rate(measuring.matched, fresh=again, batch_size=batch_size, advance=measuring.advance)
    except ResourceError as limit:
        measuring.error = limit
        return Trained(_typical(measuring, usual, LIMIT_REACHED))
    except (MismatchError, UsageError) as error:
        if mode != "auto":
            raise
        return Trained(_typical(measuring, usual, failed(error)))
    if found.stopped is not None:
        measuring.error = found.stopped
    start = _start(again)
    return _concluded(measuring, found, usual, gradients(measuring.problem.evaluations) - before, start)


def _start(again: Problem | None) -> str:
    """What short runs start from, in words."""
    if again is None:
        return "these weights"
    if isinstance(again.model, Perceptron):
        return "new weights as torch draws them, since the network was rebuilt without its factory"
    return "new weights of the network's factory"


def _concluded(
    measuring: PartialMeasurement, found: RateProbe, usual: float | Missing, cost: float, start: str
) -> Trained:
    words = Basis(counted(len(found.rates), "short run"), f"of {counted(found.steps, 'step')} from {start}")
    doubt = Missing(Why.INDISTINCT if found.stopped is None else Why.LIMIT_REACHED, found.reason)
    measured = doubt if found.measured is None else found.measured
    measuring.estimates.append(Estimate(found.estimator, measuring.eta(measured), measured, words, cost))
    runs = tuple(ProbeRun(rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True))
    gain = doubt if found.gain is None else found.gain
    if not found.reliable or found.learning_rate is None or found.low is None or found.high is None:
        recommended = _typical(measuring, usual, doubt, gain)
    else:
        rate, name = found.learning_rate, found.estimator
        recommended = Recommended(
            rate, measuring.eta(rate), found.low, found.high, name, found.reason, reliable=True, gain=gain
        )
    return Trained(recommended, runs, found.steps, f"probe: from {start}; {found.rows}.")


def _typical(
    measuring: PartialMeasurement, rate: float | Missing, why: Missing, gain: float | Missing | None = None
) -> Recommended:
    """The typical rate, where there is one, since the best one was not measured."""
    name = "typical" if not isinstance(rate, Missing) else None
    return Recommended(rate, measuring.eta(rate), why, why, name, why.words, False, why if gain is None else gain)


def check(
    measuring: PartialMeasurement, rate: float | None, steps: int, batch_size: int | None
) -> tuple[VerifiedRun, ...]:
    """Real steps at 0.3, 1 and 3 times a rate; none where a limit was reached, or there is no rate.

    Raises UsageError where no steps can be taken.
    """
    if rate is None or isinstance(measuring.error, ResourceError):
        return ()
    try:
        found = verify(measuring.matched, rate, steps, batch_size=batch_size, advance=measuring.advance)
    except FromageError as error:
        if not isinstance(error, ResourceError):
            raise
        measuring.error = error
        return ()
    return tuple(VerifiedRun(run.factor, run.learning_rate, run.losses, run.start_loss, run.end_loss) for run in found)
