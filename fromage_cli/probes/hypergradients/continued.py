"""Training continued with a hyperparameter moved up and down: what a finite change of it really does.

It needs no derivative, so it also holds through a sign and for dropout. Both runs of a move share batches and random
numbers. Where training is chaotic, or drops at random, the move is repeated on other batches and random numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, variance

from torch import Tensor

from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, Values
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.validation import Validation, require_finite
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
from fromage_cli.theory.accumulation import inner_product, squared_norm

CHANGE = 0.1
"""By which share of its value a hyperparameter is moved."""
FROM_ZERO = 0.01
"""What a hyperparameter of 0 is moved to; it cannot go below."""
PROBABILITIES = ("dropout", LABEL_SMOOTHING)
"""Hyperparameters that stay below 1 when they are moved."""
DRAWS = 4
"""Of batches and random numbers, to average over."""
SMOOTH = 0.9
"""Cosine of metasmoothness below which a single move is chance."""


@dataclass(frozen=True)
class Continued:
    """What moving a hyperparameter did to the validation loss after the steps."""

    per_unit: float
    """Difference of the validation loss over the difference of the hyperparameter."""
    stderr: float | None
    """Standard error of that over parts of the validation rows, and over draws; None where there is one of each."""
    draws: int
    """Of batches and random numbers that it is the mean of."""
    metasmoothness: float | None
    """Cosine between what the two halves of the change do to the weights; None where they do nothing."""


@dataclass(frozen=True)
class _End:
    """Where a run ended."""

    losses: list[float]
    """Validation loss of each part."""
    weights: list[Tensor]


class Continuations:
    """Continued runs from one checkpoint; the run that changes nothing is taken once.

    `batches_of`: the batches of the steps in each draw, the first of them those of `steps`.
    """

    def __init__(
        self,
        steps: TrainingSteps,
        validation: Validation,
        values: Values,
        batches_of: Callable[[int], Sequence[Batch]],
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.steps, self.validation, self.values, self.batches_of = steps, validation, values, batches_of
        self.advance = advance

    @cached_property
    def unchanged(self) -> _End:
        """The run with every hyperparameter as it is."""
        return self._run(self.values)

    @property
    def end_loss(self) -> float:
        """The validation loss where that run ends."""
        return fmean(self.unchanged.losses, self.validation.shares)

    def measure(self, hyperparameter: Hyperparameter, *, change: float = CHANGE) -> Continued:
        """Moves it up and down by a share of its value, or from 0 up.

        Costs two runs, and two more for each further draw. Raises NumericalError where a loss is not finite,
        ResourceError at a limit.
        """
        if hyperparameter.value and hyperparameter.name in PROBABILITIES:
            change = min(change, 0.5 * (1.0 - hyperparameter.value) / hyperparameter.value)
        if hyperparameter.value:
            places = [
                self.values.moved(hyperparameter, -change),
                self.values,
                self.values.moved(hyperparameter, change),
            ]
            width = 2.0 * change * hyperparameter.value
        else:
            half = self.values.moved(hyperparameter, 0.5 * FROM_ZERO)
            places, width = [self.values, half, self.values.moved(hyperparameter, FROM_ZERO)], FROM_ZERO
        low, middle, high = (self.unchanged if place is self.values else self._run(place) for place in places)
        smoothness = _cosine(low.weights, middle.weights, high.weights)
        rows = [_over(width, low, high)]
        chance = hyperparameter.place == "dropout" or (smoothness is not None and smoothness < SMOOTH)
        for draw in range(1, DRAWS if chance and self.draws_differ else 1):
            low, high = (self._run(place, draw) for place in (places[0], places[-1]))
            rows.append(_over(width, low, high))
        shares = self.validation.shares
        mean = fmean(fmean(row, shares) for row in rows)
        return Continued(mean, standard_error(rows, shares), len(rows), smoothness)

    @property
    def draws_differ(self) -> bool:
        """Whether another draw is another run: not where every step sees all rows and nothing drops."""
        first, other = self.batches_of(0), self.batches_of(1)
        return bool(self.values.dropout) or any(one is not two for one, two in zip(first, other, strict=True))

    def _run(self, values: Values, draw: int = 0) -> _End:
        steps = self.steps.drawn(draw, self.batches_of(draw))
        with steps.from_checkpoint() as start:
            steps.run(start, values, keep=lambda *_: self.advance())
            losses = self.validation.losses()
            require_finite(math.fsum(losses), len(steps.batches))
            return _End(losses, [tensor.parameter.detach().clone() for tensor in steps.tensors])


def _cosine(low: Sequence[Tensor], middle: Sequence[Tensor], high: Sequence[Tensor]) -> float | None:
    """Between the two halves of the way from `low` to `high`; None where one of them leads nowhere."""
    first = [after - before for before, after in zip(low, middle, strict=True)]
    second = [after - before for before, after in zip(middle, high, strict=True)]
    squares = math.fsum(map(squared_norm, first)) * math.fsum(map(squared_norm, second))
    if not squares > 0.0:
        return None
    return math.fsum(map(inner_product, first, second)) / math.sqrt(squares)


def _over(width: float, low: _End, high: _End) -> list[float]:
    """The difference quotient of each part."""
    return [(after - before) / width for before, after in zip(low.losses, high.losses, strict=True)]


def standard_error(rows: Sequence[Sequence[float]], shares: Sequence[float]) -> float | None:
    """That of the mean over draws, the rows, and parts, the columns, by their shares; None of one of each."""
    parts = [fmean(column) for column in zip(*rows, strict=True)]
    squares, mean, counted = [], fmean(parts, shares), sum(share > 0.0 for share in shares)
    if counted > 1:
        spread = math.fsum((share * (part - mean)) ** 2 for share, part in zip(shares, parts, strict=True))
        squares.append(spread * counted / (counted - 1))
    if len(rows) > 1:
        squares.append(variance(fmean(row, shares) for row in rows) / len(rows))
    return math.sqrt(math.fsum(squares)) if squares else None
