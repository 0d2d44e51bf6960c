"""What a measurement gives besides numbers: why one is missing, and what ended it early."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from fromage_cli.errors import FromageError, ResourceError

T = TypeVar("T")


class Why(StrEnum):
    """The kinds of reason for which a number is missing; verdicts compare these and never the words."""

    NOT_ASKED = "not-asked"
    """The command line did not ask for it."""
    NO_MODEL = "no-model"
    """It takes a model and a batch, which were not given."""
    NOT_INSTALLED = "not-installed"
    """It takes a package that is not installed, or that cannot be imported."""
    NOT_TOLD = "not-told"
    """The system does not tell it."""
    LIMIT_REACHED = "limit-reached"
    """A limit of time, memory or evaluations was reached before."""
    OPTIMIZER_UNKNOWN = "optimizer-unknown"
    """It depends on the optimizer, which neither the command line nor the checkpoint tells."""
    LEARNING_RATE_UNKNOWN = "learning-rate-unknown"
    """It depends on the learning rate, which nothing tells."""
    WEIGHT_DECAY_UNKNOWN = "weight-decay-unknown"
    """It depends on the weight decay, which nothing tells."""
    DTYPE_UNKNOWN = "dtype-unknown"
    """It depends on how numbers of a dtype are stored, which is not known here."""
    NOT_LOGGED = "not-logged"
    """The log of the trainer does not have it."""
    STEP_UNKNOWN = "step-unknown"
    """It depends on the training step of a checkpoint, which the file does not tell."""
    NO_STATE = "no-optimizer-state"
    """It depends on optimizer state that the checkpoint does not hold."""
    NO_STEPS_BETWEEN = "no-steps-between"
    """It takes checkpoints with training steps between them."""
    NOTHING_MOVES = "nothing-moves"
    """The learning rate is zero, or the weights did not move, or the update does not move them."""
    ZERO_OR_NOT_FINITE = "zero-or-not-finite"
    """A norm, a gradient or an output that it is divided by is zero or not finite."""
    NOT_DEFINED = "not-defined"
    """It has no meaning for this tensor, loss or optimizer."""
    NO_FORMULA = "no-formula"
    """Theory has no formula for it under these settings, or no study reaches this case."""
    NO_EQUILIBRIUM = "no-equilibrium"
    """Under these settings the norm of the layer does not settle."""
    SCHEDULE = "schedule"
    """It holds for a constant learning rate, and this one changes."""
    NOT_SCALE_INVARIANT = "not-scale-invariant"
    """The theory speaks of scale-invariant layers, and this one is none."""
    TOO_LARGE = "too-large"
    """The matrix has too many singular values to find them all."""
    RANK_DEFICIENT = "rank-deficient"
    """The smallest singular value of a matrix is zero up to rounding."""
    ABOVE_GRID = "above-grid"
    """It lies beyond the largest step that was tried."""
    BELOW_GRID = "below-grid"
    """It lies below the smallest step that was tried."""
    UNCERTIFIABLE = "uncertifiable"
    """No size of the step is certain to lower the loss."""
    NO_RISE = "no-rise"
    """None of the rates that were tried raises the loss."""
    UPHILL = "uphill"
    """The step raises the loss at every rate."""
    HIDDEN_BY_ROUNDING = "hidden-by-rounding"
    """The change is no larger than rounding errors."""
    HIDDEN_BY_NOISE = "hidden-by-noise"
    """The noise between batches is as large as what is to be measured."""
    TOO_FEW_ROWS = "too-few-rows"
    """It takes more rows or batches than there are."""
    BATCH_STATISTICS = "batch-statistics"
    """BatchNorm makes the rows of a batch depend on each other, so that the batch cannot be cut."""
    NO_SECOND_DERIVATIVE = "no-second-derivative"
    """The loss has no second derivative that can be used."""
    NOT_EVALUATED = "not-evaluated"
    """The model or the loss cannot be evaluated as it takes; the reason holds their own words."""
    GRAPH_UNREADABLE = "graph-unreadable"
    """The graph of the forward pass does not tell it."""
    INDISTINCT = "indistinct"
    """What was measured is too alike, or at the edge of what was tried, to tell a best value."""
    RESTS_ON_MISSING = "rests-on-missing"
    """A number that it is computed from is missing itself."""


@dataclass(frozen=True)
class Missing:
    """Stands where a number would: it is not known, for this reason."""

    code: Why
    words: str
    """The reason as a clause that can follow "because"."""


class Basis(str):
    """What a number rests on, in a few words for a narrow page and in details: `few; details`."""

    few: str

    def __new__(cls, few: str, details: str = "") -> "Basis":
        """`details` may be left out where the few words say it all."""
        basis = super().__new__(cls, f"{few}; {details}" if details else few)
        basis.few = few
        return basis


@dataclass(frozen=True)
class Interrupted(Generic[T]):
    """Stands where a measurement would: it ended early, with what it has found so far."""

    found: T
    error: FromageError
    """The limit that was reached, or the iteration that did not converge."""


LIMIT_REACHED = Missing(Why.LIMIT_REACHED, "the program was stopped, or reached a limit, before it got there")
OPTIMIZER_UNKNOWN = Missing(Why.OPTIMIZER_UNKNOWN, "the optimizer is not known: name it with --optimizer NAME")
NO_OTHER_DRAWS = Missing(Why.NOT_DEFINED, "the network draws no random numbers that change its loss")
STEP_UNKNOWN = Missing(Why.STEP_UNKNOWN, "the file does not say its training step")
LEARNING_RATE_UNKNOWN = Missing(Why.LEARNING_RATE_UNKNOWN, "the learning rate is not known")
WEIGHT_DECAY_UNKNOWN = Missing(Why.WEIGHT_DECAY_UNKNOWN, "the weight decay is not known")


def failed(error: FromageError) -> Missing:
    """The reason for a number whose measurement ended in this error."""
    code = Why.LIMIT_REACHED if isinstance(error, ResourceError) else Why.NOT_EVALUATED
    return Missing(code, error.message.splitlines()[0].rstrip("."))


def known(value: T | Missing) -> T | None:
    """The value, or None where it is missing."""
    return None if isinstance(value, Missing) else value


def known_values(values: Iterable[T | Missing]) -> list[T]:
    """Those of the values that are not missing."""
    return [value for value in values if not isinstance(value, Missing)]


def found_of(measured: T | Interrupted[T]) -> tuple[T, FromageError | None]:
    """What a measurement has found, and the error that ended it early, if one did."""
    return (measured.found, measured.error) if isinstance(measured, Interrupted) else (measured, None)
