"""What `norms` measured: plain numbers by layer and step."""

from dataclasses import dataclass, field

from fromage_cli.missing import OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.theory.scale_invariance import Invariance

ONE_STEP = Missing(Why.NO_STEPS_BETWEEN, "growth needs a second checkpoint")
TWO_STEPS = Missing(Why.NO_STEPS_BETWEEN, "an error needs a third checkpoint")
NO_QUARTER = Missing(Why.NO_STEPS_BETWEEN, "no checkpoint lies between a quarter of the run and its end")
NO_JUMP = Missing(Why.NO_STEPS_BETWEEN, "there are too few other intervals to compare with")
STEADY = Missing(Why.NOT_DEFINED, "the norm does not grow steadily")
NOT_FINITE = Missing(Why.ZERO_OR_NOT_FINITE, "an entry is not finite")


@dataclass(frozen=True)
class Overflow:
    """The step at which a dtype's largest number is reached if growth goes on."""

    entries: float | Missing
    """By the largest entry."""
    squares: float | Missing
    """By ‖W‖², the sum that a norm in this dtype needs."""


@dataclass(frozen=True)
class OverflowSteps:
    """By the dtype in which the numbers are held."""

    float16: Overflow
    bfloat16: Overflow
    float32: Overflow


@dataclass(frozen=True)
class Channels:
    """The norms of a layer's rows along its first dimension, as last stored."""

    count: int
    smallest: float
    median: float
    largest: float
    dead: int
    """Rows below a millionth of the median, or all zero."""


@dataclass(frozen=True)
class Jump:
    """The interval between two checkpoints that is furthest out of line with the rest of the run."""

    from_step: int
    to_step: int
    factor: float
    """‖W‖ at its end over that at its beginning."""
    excess: float
    """The same over what the median of the other intervals and of sibling layers would have made of it."""
    deviations: float
    """Its logarithm in standard deviations, by the median absolute one of those others."""


@dataclass(frozen=True)
class LayerNorms:
    """One layer along the run."""

    name: str
    kind: str | None
    """Its module's class; None without a model."""
    shape: tuple[int, ...]
    parameters: int
    dtype: str
    """As last stored."""
    norms: tuple[float, ...]
    """‖W‖ at each step."""
    first_norm: float
    """‖W‖ at the first of them."""
    last_norm: float
    """‖W‖ at the last."""
    invariance: Invariance = field(default_factory=Invariance)
    growth_per_step: float | Missing = ONE_STEP
    """Robust slope of ln ‖W‖ over steps (Theil, Sen); it takes two steps, and norms that have a logarithm."""
    growth_stderr: float | Missing = TWO_STEPS
    """Its standard error, which takes three steps: the larger of Sen's (independent noise) and that of the mean
    increment (a random walk)."""
    predicted_growth: float | Missing = OPTIMIZER_UNKNOWN
    """Of a scale-invariant layer: ½ ln(1+δ²) − η·wd under LARS and LAMB with decoupled decay; 0 under Fromage. The mean
    over the series' rates."""
    dead_bias: bool | None = None
    """Whether the bias beside it has no effect; None without a bias or a model."""
    overflow_step: OverflowSteps | Missing = STEADY
    """The steps at which each dtype overflows if growth goes on; missing where the norm does not grow steadily.

    It grows steadily by more than twice its error; with 3, 4, 5 and 6 steps by 6.3, 2.9, 2.4 and 2.1 times.
    """
    halved_step: float | Missing = STEADY
    """The step at which growth has halved the effective learning rate of the first step, at a constant rate; missing
    where it never does, or where that rate does not depend on the norm."""
    first_to_last: float | Missing = ONE_STEP
    """‖W‖ at the last step over that at the first."""
    since_quarter: float | Missing = ONE_STEP
    """The same from the first checkpoint on that lies past a quarter of the run; missing where that is the last."""
    effective_rate_fall: float | Missing = ONE_STEP
    """By how many times that made the effective learning rate smaller, at a constant rate: first_to_last to the power
    with which the norm divides it; missing where that rate does not depend on the norm."""
    jump: Jump | Missing = NO_JUMP
    """The interval between two checkpoints that is furthest out of line; missing with fewer than three others.

    The others are its own, and those of layers of equal shape and like name.
    """
    unchanged: bool = False
    """Whether the last checkpoint holds the bytes of the first, and the norm was the same in between."""
    never_updated: bool = False
    """Whether the optimizer's state has no slot for it, beside others that have one."""
    channels: Channels | Missing = NOT_FINITE
    """The norms of the layer's rows along its first dimension; missing where an entry is not finite."""
    effective_learning_rate: tuple[float | Missing, ...] = ()
    """SGD η/‖W‖², Adam, AdamW and Lion η/‖W‖, LAMB and Fromage η, LARS η times its trust coefficient."""


@dataclass(frozen=True)
class NormsResult:
    """The norms of a run's layers."""

    steps: tuple[int | Missing, ...]
    optimizer: str | None
    """As given, or as found in the optimizer's state."""
    learning_rates: tuple[float | Missing, ...]
    """At each step: given, from the optimizer's state, or declared beside the checkpoint."""
    weight_decay: float | Missing
    steps_per_epoch: int | None
    layers: tuple[LayerNorms, ...]
