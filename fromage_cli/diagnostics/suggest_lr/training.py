"""The rate to train at: short training runs where they can be made, else the typical rate, and real steps to check."""

from collections.abc import Callable
from dataclasses import dataclass

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch, gradients
from fromage_cli.diagnostics.suggest_lr.result import Estimate, ProbeRun, Recommended, VerifiedRun
from fromage_cli.errors import FromageError, MismatchError, ResourceError, UsageError
from fromage_cli.missing import LIMIT_REACHED, OPTIMIZER_UNKNOWN, Basis, Missing, Why, failed, found_of
from fromage_cli.optimizers.typical_rates import typical_rate
from fromage_cli.probes.trial_runs.rate_probe import measure_rate
from fromage_cli.probes.trial_runs.verification import verify
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.perceptron import Perceptron

LEFT = Missing(Why.ZERO_OR_NOT_FINITE, "the run left the numbers")


@dataclass(frozen=True)
class Trained:
    """What short runs told, or why there are none."""

    recommended: Recommended
    steps: int | Missing
    """Of each run."""
    runs: tuple[ProbeRun, ...] = ()
    note: str = ""


NOT_TRAINED = Trained(
    Recommended(
        learning_rate=OPTIMIZER_UNKNOWN,
        eta=OPTIMIZER_UNKNOWN,
        low=OPTIMIZER_UNKNOWN,
        high=OPTIMIZER_UNKNOWN,
        estimator=None,
        reason=OPTIMIZER_UNKNOWN.words,
        reliable=False,
        gain=OPTIMIZER_UNKNOWN,
    ),
    OPTIMIZER_UNKNOWN,
)
"""Nothing is trained where the optimizer is not known."""


def recommend(measuring: RateSearch, mode: str, fresh: Callable[[], Problem | None], batch_size: int | None) -> Trained:
    """The rate to train at.

    `mode`: `init` from new weights, `checkpoint` from these, `auto` the first where `fresh` makes a network, `none`.
    Raises UsageError for `init` where it makes none.
    """
    usual, source = typical_rate(measuring.optimizer)
    measuring.estimates.append(Estimate("typical", measuring.eta(usual), usual, source, 0.0))
    if mode == "none":
        why = Missing(Why.NOT_ASKED, "no short runs were asked for")
        return Trained(_typical(measuring, usual, why), why)
    if isinstance(measuring.error, ResourceError):
        return Trained(_typical(measuring, usual, LIMIT_REACHED), LIMIT_REACHED)
    before = gradients(measuring.problem.evaluations)
    again = None
    try:
        again = fresh() if mode in ("auto", "init") else None
        if again is None and mode == "init":
            raise UsageError(
                "--probe init needs a network that draws new weights; this one comes with its own.",
                "Name a factory with --model.",
            )
        found, cut = found_of(
            measure_rate(measuring.matched, fresh=again, batch_size=batch_size, advance=measuring.advance)
        )
    except ResourceError as limit:
        measuring.error = limit
        return Trained(_typical(measuring, usual, LIMIT_REACHED), LIMIT_REACHED)
    except (MismatchError, UsageError) as error:
        if mode != "auto":
            raise
        why = failed(error)
        return Trained(_typical(measuring, usual, why), why)
    if cut is not None:
        measuring.error = cut
    start = "new weights of the network's factory"
    if again is None:
        start = "these weights"
    elif isinstance(again.model, Perceptron):
        start = "new weights as torch draws them, since the network was rebuilt without its factory"
    words = Basis(counted(len(found.rates), "short run"), f"of {counted(found.steps, 'step')} from {start}")
    doubt = Missing(Why.INDISTINCT if cut is None else Why.LIMIT_REACHED, found.reason)
    measured, gain = (doubt if value is None else value for value in (found.measured, found.gain))
    cost = gradients(measuring.problem.evaluations) - before
    measuring.estimates.append(Estimate(found.estimator, measuring.eta(measured), measured, words, cost))
    recommended = _typical(measuring, usual, doubt, gain)
    if found.reliable and found.learning_rate is not None and found.low is not None and found.high is not None:
        rate, name = found.learning_rate, found.estimator
        recommended = Recommended(rate, measuring.eta(rate), found.low, found.high, name, found.reason, True, gain)
    runs = tuple(ProbeRun(rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True))
    return Trained(recommended, found.steps, runs, f"probe: from {start}; {found.rows}.")


def _typical(
    measuring: RateSearch, rate: float | Missing, why: Missing, gain: float | Missing | None = None
) -> Recommended:
    """The typical rate, where there is one, since the best one was not measured."""
    name = "typical" if not isinstance(rate, Missing) else None
    return Recommended(rate, measuring.eta(rate), why, why, name, why.words, False, why if gain is None else gain)


def check(measuring: RateSearch, rate: float | None, steps: int, batch_size: int | None) -> tuple[VerifiedRun, ...]:
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
    return tuple(
        VerifiedRun(
            factor=run.factor,
            learning_rate=run.learning_rate,
            losses=run.losses,
            start_loss=run.start_loss,
            end_loss=LEFT if run.end_loss is None else run.end_loss,
        )
        for run in found
    )
