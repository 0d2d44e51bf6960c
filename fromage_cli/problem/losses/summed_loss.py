"""A loss that adds up over rows where a mean is expected: how it is recognised, and made comparable between parts."""

from dataclasses import dataclass
from functools import partial

from torch import nn

from fromage_cli.errors import FromageError
from fromage_cli.problem.conditions.evaluation import Conditions, Mode
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.losses.loss_terms import Loss, LossTerms
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.problem.losses.supervised_losses import SupervisedLoss

FEW = 5
"""Rows that tell whether a loss adds up, in parts of two and three: of such the logarithms do not, nor of all three."""
EXACT = 1e-5
"""Relative gap between the loss of rows and the sum of those of their parts, for rounding."""
DRAWN = 0.1
"""The same where rows and parts draw random numbers apart from each other; a mean would be half of that sum."""


@dataclass(frozen=True)
class SummedLoss:
    """A sum over rows: the loss of a part counts as often as the part goes into all rows."""

    loss: Loss
    rows: int
    """Of a whole batch, whose loss stays as it is."""

    @property
    def name(self) -> str:
        """How the loss is named in output."""
        return self.loss.name

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The sum over the batch times all rows, and the rows of the batch."""
        terms = self.loss(model, batch)
        return LossTerms(terms.total * (self.rows / (terms.count or 1.0)), float(batch.size))


def users_function(loss: Loss) -> object:
    """The function that the user named; None for any other loss."""
    inner = loss.loss if isinstance(loss, SummedLoss) else loss
    return inner.function if isinstance(inner, FunctionLoss) else None


def recognise_sum(loss: Loss, model: nn.Module, batch: Batch, *, mode: Mode = "auto", seed: int = 0) -> Loss:
    """The loss, as a SummedLoss where that of a few rows is the sum of those of its parts.

    Losses that somebody else computes are tried, by forward passes that leave no trace: of five rows and their parts,
    or of all rows where random numbers are drawn. One that fails on so few rows is taken to be a mean.
    """
    conditions = Conditions(model, users_function(loss))

    def value(part: Batch) -> float:
        with conditions.comparable(mode, part.seed(seed)):
            terms = loss(model, part)
            return float(terms.total.detach()) / (terms.count or 1.0)

    def value_of(start: int, stop: int) -> float:
        return conditions.without_graph(partial(value, batch.rows(start, stop)))

    def adds_up(rows: int, tolerance: float) -> bool:
        parts = value_of(0, rows // 2), value_of(rows // 2, rows)
        return abs(value_of(0, rows) - sum(parts)) < tolerance * sum(map(abs, parts))

    if isinstance(loss, SupervisedLoss) or batch.size < 2:
        return loss
    try:
        found = adds_up(FEW if batch.size >= FEW else min(batch.size, 3), EXACT)
        found = found or (bool(conditions.drew) and adds_up(batch.size, DRAWN))
    except FromageError:
        return loss
    return SummedLoss(loss, batch.size) if found else loss
