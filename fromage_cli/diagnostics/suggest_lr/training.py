"""The rate to train at: short training runs where they can be made, else the typical rate, and real steps to check."""

from dataclasses import dataclass

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch, Request, gradients
from fromage_cli.diagnostics.suggest_lr.result import Estimate, ProbeRun, Recommended, VerifiedRun
from fromage_cli.errors import MismatchError, ResourceError, UsageError
from fromage_cli.missing import OPTIMIZER_UNKNOWN, Basis, Missing, Why, failed
from fromage_cli.optimizers.typical_rates import typical_rate
from fromage_cli.probes.trial_runs.rate_probe import RateProbe, measure_rate
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


def recommend(measuring: RateSearch, request: Request) -> Trained:
    """The rate to train at: of short runs as `request.probe` asks for them, else the typical one.

    Under `auto` they start from new weights where its `fresh` makes a network, else from these. Raises UsageError for
    `init` where it makes none.
    """
    if not measuring.known:
        return Trained(_typical(measuring, OPTIMIZER_UNKNOWN, OPTIMIZER_UNKNOWN), OPTIMIZER_UNKNOWN)
    usual, source = typical_rate(measuring.optimizer)
    measuring.estimates.append(Estimate("typical", measuring.eta(usual), usual, source, 0.0))
    if request.probe == "none":
        why = Missing(Why.NOT_ASKED, "no short runs were asked for")
        return Trained(_typical(measuring, usual, why), why)
    before = gradients(measuring.problem.evaluations)
    ran = measuring.within_limits(lambda: _short_runs(measuring, request))
    if isinstance(ran, Missing):
        return Trained(_typical(measuring, usual, ran), ran)
    found, again = ran
    start = "new weights of the network's factory"
    if again is None:
        start = "these weights"
    elif isinstance(again.model, Perceptron):
        start = "new weights as torch draws them, since the network was rebuilt without its factory"
    words = Basis(counted(len(found.rates), "short run"), f"of {counted(found.steps, 'step')} from {start}")
    cut = isinstance(measuring.error, ResourceError)
    doubt = Missing(Why.LIMIT_REACHED if cut else Why.INDISTINCT, found.reason)
    measured, gain = (doubt if value is None else value for value in (found.measured, found.gain))
    cost = gradients(measuring.problem.evaluations) - before
    measuring.estimates.append(Estimate(found.estimator, measuring.eta(measured), measured, words, cost))
    recommended = _typical(measuring, usual, doubt, gain)
    if found.reliable and found.learning_rate is not None and found.low is not None and found.high is not None:
        rate, name = found.learning_rate, found.estimator
        recommended = Recommended(rate, measuring.eta(rate), found.low, found.high, name, found.reason, True, gain)
    runs = tuple(ProbeRun(rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True))
    return Trained(recommended, found.steps, runs, f"probe: from {start}; {found.rows}.")


def _short_runs(measuring: RateSearch, request: Request) -> tuple[RateProbe, Problem | None] | Missing:
    """What short runs tell, with the new network that they start from; or why `auto` makes none."""
    try:
        again = request.fresh() if request.probe in ("auto", "init") else None
        if again is None and request.probe == "init":
            raise UsageError(
                "--probe init needs a network that draws new weights; this one comes with its own.",
                "Name a factory with --model.",
            )
        made = measure_rate(measuring.matched, fresh=again, batch_size=request.batch_size, advance=measuring.advance)
        return measuring.kept(made), again
    except (MismatchError, UsageError) as error:
        if request.probe != "auto":
            raise
        return failed(error)


def _typical(
    measuring: RateSearch, rate: float | Missing, why: Missing, gain: float | Missing | None = None
) -> Recommended:
    """The typical rate, where there is one, since the best one was not measured."""
    name = "typical" if not isinstance(rate, Missing) else None
    return Recommended(rate, measuring.eta(rate), why, why, name, why.words, False, why if gain is None else gain)


def check(measuring: RateSearch, rate: float | None, request: Request) -> tuple[VerifiedRun, ...]:
    """Real steps at 0.3, 1 and 3 times a rate; none where a limit was reached, or there is no rate.

    Raises UsageError where no steps can be taken.
    """
    if rate is None:
        return ()
    matched, size = measuring.matched, request.batch_size
    found = measuring.within_limits(
        lambda: verify(matched, rate, request.verify, batch_size=size, advance=measuring.advance)
    )
    if isinstance(found, Missing):
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
