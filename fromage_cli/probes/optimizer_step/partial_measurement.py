"""A measurement on its way, number by number, until a limit is reached."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fromage_cli.errors import FromageError, ResourceError
from fromage_cli.missing import LIMIT_REACHED, Interrupted, Missing, found_of
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.evaluation.problem import Problem

T = TypeVar("T")


@dataclass
class PartialMeasurement:
    """What the numbers are measured from, and what ended the measurement early, if anything did."""

    matched: MatchedState
    advance: Callable[[], None]
    error: FromageError | None = field(default=None, kw_only=True)

    @property
    def problem(self) -> Problem:
        """What is measured."""
        return self.matched.problem

    @property
    def optimizer(self) -> Optimizer:
        """The rule that moves it."""
        return self.matched.optimizer

    def within_limits(self, measure: Callable[[], T | Missing]) -> T | Missing:
        """What `measure` gives; from the first limit that is reached on, that is the reason for each missing number."""
        if isinstance(self.error, ResourceError):
            return LIMIT_REACHED
        try:
            return measure()
        except ResourceError as limit:
            self.error = limit
            return LIMIT_REACHED

    def kept(self, measured: T | Interrupted[T]) -> T:
        """What a part has found; what ended that part early ends the whole."""
        found, error = found_of(measured)
        self.error = error or self.error
        return found
