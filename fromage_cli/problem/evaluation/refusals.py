"""What makes a problem unfit to be measured: chunks with another loss than the batch, a loss without a gradient."""

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from torch import Tensor

from fromage_cli.errors import MismatchError, NotFiniteError, OutOfMemory
from fromage_cli.problem.conditions.failing_together import failing_together
from fromage_cli.problem.user_code.named_code import out_of_memory
from fromage_cli.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from fromage_cli.problem.evaluation.problem import Problem

SPLIT_TOLERANCE = 1e-5
"""Relative gap between the loss of the whole batch and of its chunks above which splitting is refused.

It leaves room for sums of float32 that are taken in another order.
"""

SAME = 1e-5
"""Relative gap between two evaluations of one loss above which something is kept from call to call.

Kernels that sum in an order of their own stay below it.
"""

DRAWS = 4
"""Draws over which both are held against each other where chunks draw other random numbers than the whole batch."""
DRAWS_APART = 6.0
"""Standard errors, from so few, by which their mean difference may differ from zero: by chance in 1 of 100 cases."""


def require_faithful_split(problem: "Problem") -> None:
    """Evaluates the loss in micro-batches and of whole batches; raises MismatchError where these are two losses.

    Where whole batches do not fit in memory, the chunks are compared with their halves. Nothing is compared where the
    chunks do not fit either: they are halved at the first evaluation, and compared then. Raises OutOfMemory instead
    where the batch was split only because it did not fit.
    """
    flag, parts = "--micro-batch", f"chunks of {problem.micro_batch}"
    if problem.ranks.several:
        flag, parts = "several ranks", f"the rows of {problem.ranks.count} ranks"
    if problem.uses_batch_statistics:
        raise MismatchError(
            f"With BatchNorm in training mode the loss depends on which rows are together, so {flag} would change it.",
            f"Compute without {flag}, use a smaller batch, or give --mode eval.",
        )
    coarse: tuple[int | None, Ranks] = (None, ALONE)
    fine: tuple[int | None, Ranks] = (problem.micro_batch, problem.ranks)
    split, whole = _value_if_it_fits(problem, *fine), _value_if_it_fits(problem, *coarse)
    if split is None:
        return
    if whole is None:
        rows = problem.largest_chunk()
        if rows == 1:
            problem.fitting += ("The batch fits only row by row, and nothing was compared with that.",)
            return
        coarse, fine = fine, (-(-rows // 2), problem.ranks)
        parts = f"chunks of {fine[0]} rather than {rows}"
        problem.fitting += (f"The whole batch did not fit, so chunks of {rows} rows were compared with their halves.",)
        split, whole = _value_in(problem, *fine), split
    scale = max(abs(whole), 1e-12)  # a loss of zero has no relative gap
    gap, doubt = abs(split - whole) / scale, 0.0
    if gap > SPLIT_TOLERANCE and problem.conditions.drew:
        others = [problem.drawn(further) for further in range(1, DRAWS)]
        gaps = [split - whole, *(_value_in(other, *fine) - _value_in(other, *coarse) for other in others)]
        gap, doubt = abs(fmean(gaps)) / scale, DRAWS_APART * stdev(gaps) / math.sqrt(DRAWS) / scale
    if not gap <= SPLIT_TOLERANCE + doubt:
        message = (
            f"Splitting the batch into {parts} changes the loss from {whole:.8g} "
            f"to {split:.8g} (relative gap {gap:.1e}; at most {SPLIT_TOLERANCE + doubt:.0e} is accepted)."
        )
        if problem.fitting:
            raise OutOfMemory(f"The batch does not fit in memory. {message}", "Use a smaller batch.")
        raise MismatchError(message, f"The loss or the model mixes rows. Compute without {flag}.")


def _value_in(problem: "Problem", rows: int | None, ranks: Ranks) -> float:
    """The loss in chunks of so many rows among these ranks."""
    other = problem.drawn(0)
    other.micro_batch, other.ranks = rows, ranks
    return other.value()


def _value_if_it_fits(problem: "Problem", rows: int | None, ranks: Ranks) -> float | None:
    """The same; None on every rank where it does not fit in the memory of one."""
    try:
        with failing_together(problem.ranks):
            return _value_in(problem, rows, ranks)
    except Exception as error:
        if not out_of_memory(error):
            raise
    return None


def is_same_loss(first: float, again: float, rounding: float = SAME) -> bool:
    """Whether two evaluations gave the same, but for rounding: a relative gap."""
    return math.isclose(first, again, rel_tol=rounding) or (math.isnan(first) and math.isnan(again))


def require_same_loss(first: float, again: float) -> None:
    """Raises MismatchError where two evaluations of the same rows at the same weights differ by more than rounding."""
    if not is_same_loss(first, again):
        raise MismatchError(
            f"The loss of the same rows differs between two calls: {first:.7g}, then {again:.7g}.",
            "Something keeps state between calls, or draws random numbers outside torch's generators. "
            "The state of modules and generators is already reset. Reset the rest in a --loss "
            "file.py:function.",
        )


def require_finite_loss(loss: float) -> None:
    """Raises NotFiniteError where the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise NotFiniteError(
            f"The loss at the checkpoint's own weights is {loss}.",
            "Check for NaN or infinite weights, a batch that is not normalised as in training, or a wrong loss.",
        )


def require_gradient(loss: float, gradients: Mapping[str, Tensor]) -> None:
    """Raises MismatchError where no tensor receives a gradient, and NotFiniteError where anything is not finite."""
    if not gradients:
        raise MismatchError(
            "No trainable tensor receives a gradient from this loss.",
            "Compute the loss from the model's output, without detach() or no_grad().",
        )
    require_finite_loss(loss)
    bad = [  # what is not finite shows in the sum, which needs no memory but may itself overflow
        name for name, gradient in gradients.items() if not (gradient.sum().isfinite() or gradient.isfinite().all())
    ]
    if bad:
        raise NotFiniteError(
            f"The gradient at the checkpoint's own weights is not finite in {len(bad)} of {len(gradients)} tensors, "
            f"first in {bad[0]!r}.",
            "Try --dtype float64. If that does not help, the loss has no gradient at these weights.",
            bad,
        )
