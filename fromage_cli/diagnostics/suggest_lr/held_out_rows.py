"""Where a step raises the loss of rows that gave no part of it."""

from collections.abc import Sequence

from fromage_cli.counting import counted
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.missing import Basis, Missing, Why, failed
from fromage_cli.probes.lines.critical import critical_rate, descent_along
from fromage_cli.probes.optimizer_step.next_update import NextUpdate, on_rows
from fromage_cli.problem.networks.layers import TrainableTensor


def critical_on_others(
    update: NextUpdate, tensors: Sequence[TrainableTensor], start: float
) -> tuple[float | Missing, Basis]:
    """The smallest rate whose step from some rows raises the loss of others, and what it rests on.

    The first batch gives the step and all others judge it, or one half of the only batch the other. `start`: where the
    search begins. Costs a gradient of all rows, and forward passes of the others.
    """
    problem = update.matched.problem
    half = problem.batch.size // 2
    if not problem.further and half == 0:
        words = Basis("it takes two rows")
        return Missing(Why.TOO_FEW_ROWS, words), words
    if problem.further:
        own, other = problem.on(problem.batch), problem.on(*problem.further)
    else:
        own, other = problem.on(problem.batch.rows(0, half)), problem.on(problem.batch.rows(half, 2 * half))
    try:
        step = on_rows(update, own)
        slopes = other.base.gradients
        moved = {t.name: step.moved(t) for t in tensors if t.name in step.steps and t.name in slopes}
        rate = critical_rate(other, moved, start, update.matched.optimizer.contraction)
        slope = descent_along(other, moved)
    except (MismatchError, NumericalError) as error:
        why = failed(error)
        return why, Basis("not possible", why.words)
    finally:
        for part in (own, other):
            problem.evaluations.add(part.evaluations, part.rows / problem.rows)
    details = f"on {counted(other.rows, 'row')}, the step from {counted(own.rows, 'other')}"
    if rate is not None:
        return rate, Basis("by trying steps", details)
    if slope == 0.0:
        words = Basis("no slope", details)
        return Missing(Why.ZERO_OR_NOT_FINITE, words), words
    words = Basis("no rise seen" if slope > 0.0 else "it never falls", details)
    return Missing(Why.NO_RISE if slope > 0.0 else Why.UPHILL, words), words
