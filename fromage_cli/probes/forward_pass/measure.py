"""One forward pass on the batch, and everything that looks at it."""

from contextlib import ExitStack
from dataclasses import dataclass, replace

from fromage_cli.missing import Missing, Why
from fromage_cli.probes.forward_pass.attention import AttentionCall, AttentionWatcher
from fromage_cli.probes.forward_pass.batch_statistics import LayerStatistics, StatisticsWatcher
from fromage_cli.probes.forward_pass.course import EarlierLoss
from fromage_cli.probes.forward_pass.guessing import Guessing, TargetWatcher
from fromage_cli.probes.forward_pass.logits import LogitsCall, LogitsWatcher
from fromage_cli.probes.forward_pass.units import ActivationUnits, UnitWatcher
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.backward_pass import require_count
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.refusals import require_finite_loss

NO_HELD_OUT_ROWS = Missing(Why.NOT_ASKED, "no held-out rows were given")


@dataclass(frozen=True)
class HeldOut:
    """The loss of rows that training does not see."""

    rows: int
    loss: float
    """In the mode of the problem: normalised by the rows themselves where training is."""
    loss_in_evaluation: float
    guessing: Guessing | Missing
    """In evaluation behaviour."""


@dataclass(frozen=True)
class ForwardPass:
    """What one forward pass tells."""

    rows: int
    loss: float
    """In the mode of the problem."""
    loss_in_evaluation: float
    """The same as `loss` where nothing in the network behaves otherwise."""
    guessing: Guessing | Missing
    units: tuple[ActivationUnits, ...]
    batch_statistics: tuple[LayerStatistics, ...]
    attention: tuple[AttentionCall, ...] = ()
    """Every call of scaled dot-product attention, in their order."""
    logits: tuple[LogitsCall, ...] = ()
    """Every call of a cross-entropy."""
    held_out: HeldOut | Missing = NO_HELD_OUT_ROWS
    earlier: tuple[EarlierLoss, ...] = ()
    """The loss of the same rows at earlier checkpoints, first to last."""


def look_at_forward_pass(problem: Problem, validation: Batch | None = None) -> ForwardPass:
    """Looks at one forward pass of the problem's loss, and at the loss of rows that training does not see.

    The network's state stays as it is. One more pass gives the loss in evaluation behaviour where that differs.

    Raises NumericalError where the loss is not finite.
    """
    differs, evaluation = problem.mode == "train" or problem.uses_batch_statistics, _in_evaluation(problem)
    found = _watched(problem)
    require_finite_loss(found.loss)
    found = replace(found, loss_in_evaluation=evaluation.value() if differs else found.loss)
    if validation is None:
        return found
    held_out = problem.on(validation)
    seen = _watched(_in_evaluation(held_out))
    loss = held_out.value() if differs else seen.loss
    problem.evaluations.add(held_out.evaluations, validation.size / problem.rows)
    return replace(found, held_out=HeldOut(validation.size, loss, seen.loss, seen.guessing))


def _in_evaluation(problem: Problem) -> Problem:
    """The same problem in evaluation behaviour; their evaluations are counted together."""
    other = problem.drawn(0)
    other.mode = "eval"
    return other


def _watched(problem: Problem) -> ForwardPass:
    """One forward pass with everything that looks at it."""
    problem.budget.check()

    def run() -> ForwardPass:
        units, targets, statistics = UnitWatcher(problem.model), TargetWatcher(), StatisticsWatcher(problem.model)
        attention, logits = AttentionWatcher(problem.model), LogitsWatcher()
        total, count, chunks = 0.0, 0.0, problem.chunks()
        for chunk in chunks:
            with problem.evaluation(chunk), ExitStack() as stack:
                for watcher in (statistics, attention, logits, units, targets):
                    stack.enter_context(watcher)
                terms = problem.loss(problem.model, chunk)
                total, count = total + float(terms.total.detach()), count + terms.count
        loss = total / require_count(count)
        guessing = targets.guessing(len(chunks))
        seen = tuple(attention.calls), tuple(logits.calls)
        return ForwardPass(problem.rows, loss, loss, guessing, units.units, statistics.statistics, *seen)

    problem.evaluations.forwards += 1
    return problem.conditions.without_graph(run)
