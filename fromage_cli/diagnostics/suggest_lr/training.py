"""The rate to train at, from short training runs, and longer ones that check it."""

import math
from dataclasses import dataclass

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.partial_measurement import RateSearch, Request
from fromage_cli.diagnostics.suggest_lr.result import Estimate, ProbeRun, Recommended, VerifiedRun
from fromage_cli.errors import MismatchError, ResourceError, UsageError
from fromage_cli.missing import OPTIMIZER_UNKNOWN, Basis, Missing, Why, failed
from fromage_cli.optimizers.typical_rates import calibration, typical_rate_of
from fromage_cli.probes.cost import gradients
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.trial_runs.rate_probe import RateProbe, measure_rate
from fromage_cli.probes.trial_runs.short_runs import WHOLE_BUDGET, Course
from fromage_cli.probes.trial_runs.training import TrainingRows, training_rows
from fromage_cli.probes.trial_runs.verification import best_of, verify
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.perceptron import Perceptron
from fromage_cli.stopping import Interruption
from fromage_cli.theory.rate_calibration import STUDIED_STEPS

LEFT = Missing(Why.ZERO_OR_NOT_FINITE, "the loss of the run overflowed")
NO_RUNS = Missing(Why.NOT_ASKED, "no short runs were asked for")
ENDED = Missing(
    Why.NOT_DEFINED,
    "the schedule is at its end at this checkpoint: --schedule and --total-steps give a further run",
)
MORE_TELLS_NO_MORE = "short runs: a larger --probe-budget told no more in a study."
INTERRUPTED = "you interrupted the short runs"
CUT_SHORT = "a limit ended the short runs early"


@dataclass(frozen=True)
class Trained:
    """What short runs told, or why there are none."""

    recommended: Recommended
    steps: int | Missing
    """Of the longest of them."""
    runs: tuple[ProbeRun, ...] = ()
    again: Problem | None = None
    """The new network that they started from; None where they started from the checkpoint, or there are none."""
    notes: tuple[str, ...] = ()


def recommend(measuring: RateSearch, request: Request) -> Trained:
    """The rate to train at, of short runs as `request.probe` asks for them.

    Under `auto` they start from new weights where its `fresh` makes a network, else from these. Raises UsageError for
    `init` where it makes none.
    """
    if not measuring.known:
        return _without_runs(OPTIMIZER_UNKNOWN)
    before = gradients(measuring.problem.evaluations)
    ran: tuple[RateProbe, TrainingRows, Problem | None] | Missing = NO_RUNS
    if request.probe != "none":
        ran = measuring.within_limits(lambda: _short_runs(measuring, request))
    again = None if isinstance(ran, Missing) else ran[-1]
    usual, source = typical_rate_of(
        measuring.optimizer, new=request.new or again is not None, parameters=measuring.parameters
    )
    measuring.estimates.append(Estimate("typical", measuring.eta(usual), usual, source, 0.0))
    cut = isinstance(measuring.error, ResourceError)
    cut_reason = INTERRUPTED if isinstance(measuring.error, Interruption) else CUT_SHORT
    if isinstance(ran, Missing):
        return _without_runs(Missing(ran.code, cut_reason) if ran.code is Why.LIMIT_REACHED else ran)
    found, rows, _ = ran
    concluded = found.conclusion
    reason = cut_reason if cut else concluded.reason
    doubt = Missing(Why.LIMIT_REACHED if cut else Why.INDISTINCT, reason)
    rate, low, high, regret, gain = (
        doubt if value is None else value
        for value in (concluded.learning_rate, concluded.low, concluded.high, concluded.regret, found.gain)
    )
    longest = max((run.steps for run in found.runs), default=0)
    words = Basis(counted(len(found.runs), "short run"), f"{counted(found.gradients, 'step')} in all {_start(again)}")
    cost = gradients(measuring.problem.evaluations) - before
    measuring.estimates.append(Estimate(found.estimator, measuring.eta(rate), rate, words, cost))
    recommended = Recommended(
        learning_rate=rate,
        eta=measuring.eta(rate),
        low=low,
        high=high,
        regret=regret,
        estimator=None if isinstance(rate, Missing) else found.estimator,
        reason=reason,
        reliable=concluded.reliable and not cut,
        gain=gain,
    )
    runs = tuple(ProbeRun(run.learning_rate, run.loss, run.steps, run.seed) for run in found.runs)
    notes = [
        f"short runs: {len(runs)} {_start(again)}, {found.gradients} of {found.budget} steps allowed; {rows.source}."
    ]
    if runs and not cut:
        whole = found.gradients >= WHOLE_BUDGET
        notes.append(MORE_TELLS_NO_MORE if whole else f"short runs: --probe-budget {WHOLE_BUDGET} tells more.")
    if runs and course_of(request, again is not None).left is None:
        notes.append(f"short runs: the rate is for a training of {STUDIED_STEPS} steps; --total-steps N gives yours.")
    if rows.smaller is not None:
        notes.append(
            f"short runs: batches of {counted(rows.smaller, 'row')} where training has {rows.whole}, off by 2 × in a "
            "study. For whole ones let --batch name an iterator (file.py:function) over five training batches."
        )
    return Trained(recommended, longest or doubt, runs, again, tuple(notes))


def _start(again: Problem | None) -> str:
    """From where the short runs set out, in words."""
    if again is None:
        return "from these weights"
    drawn = " as torch draws them" if isinstance(again.model, Perceptron) else ""
    return f"from new weights{drawn}"


def _short_runs(measuring: RateSearch, request: Request) -> tuple[RateProbe, TrainingRows, Problem | None] | Missing:
    """What short runs tell, on which rows, and the new network that they start from; or why `auto` makes none."""
    try:
        again = request.fresh(0) if request.probe in ("auto", "init") else None
        if again is None and request.probe == "init":
            raise UsageError(
                "--probe init needs a network that draws new weights; this one comes with its own.",
                "Name a factory: --model file.py:function.",
            )
        course = course_of(request, again is not None)
        if course.ended:
            return ENDED

        def start(seed: int) -> MatchedState:
            if again is None:
                return measuring.matched
            drawn = again if seed == 0 else request.fresh(seed)
            return measuring.matched.anew(drawn or again)

        rows = training_rows(measuring.problem, request.batch_size)
        made = measure_rate(
            start,
            rows,
            course,
            estimator="probe" if again is None else "probe-init",
            calibration=calibration(measuring.optimizer),
            peak=request.peak or (measuring.optimizer.learning_rate if again is None else None),
            guess=measuring.optimizer.learning_rate,
            budget=request.budget,
            advance=measuring.advance,
        )
        return measuring.kept(made), rows, again
    except (MismatchError, UsageError) as error:
        if request.probe != "auto":
            raise
        return failed(error)


def course_of(request: Request, new: bool) -> Course:
    """The part of the user's run that steps imitate: all of it from new weights, else what is left."""
    return Course(request.schedule, 0.0 if new else float(request.made))


def _without_runs(why: Missing) -> Trained:
    """No rate, and why."""
    return Trained(Recommended(why, why, why, why, why, None, why.words, False, why), why)


def check(
    measuring: RateSearch, rate: float | None, request: Request, again: Problem | None
) -> tuple[VerifiedRun, ...]:
    """Longer runs from the start of the short ones: at a third of a rate, at it, at three times it.

    `again`: the new network, if any. None at a limit, where there is no rate, and where the schedule has ended. Raises
    UsageError where no steps can be taken.
    """
    course = course_of(request, again is not None)
    if rate is None or course.ended:
        return ()
    rows = training_rows(measuring.problem, request.batch_size)
    start = measuring.matched if again is None else measuring.matched.anew(again)
    found = measuring.within_limits(
        lambda: verify(start, rate, rows, course, request.verify, advance=measuring.advance)
    )
    if isinstance(found, Missing):
        return ()
    best = best_of(found)
    return tuple(
        VerifiedRun(
            factor=run.factor,
            learning_rate=run.learning_rate,
            losses=run.losses,
            start_loss=run.start_loss,
            end_loss=run.end_loss if math.isfinite(run.end_loss) else LEFT,
            spread=max(run.ends) - min(run.ends) if math.isfinite(run.end_loss) else LEFT,
            best=run is best,
        )
        for run in found
    )


def verification_notes(request: Request, again: Problem | None) -> tuple[str, ...]:
    """From where the runs that verify set out, or why there are none."""
    if not request.verify:
        return ()
    ended = course_of(request, again is not None).ended
    return (f"verify: {ENDED.words}." if ended else f"verify: {_start(again)}.",)
