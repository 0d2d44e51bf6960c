"""What `state` finds: plain numbers whose field names are the JSON keys."""

from dataclasses import dataclass
from typing import Literal

from fromage_cli.checkpoints.runs.rate_history import RateBreak
from fromage_cli.diagnostics.state.sums import Moments, Sums
from fromage_cli.missing import Missing, known


@dataclass(frozen=True)
class Epsilon:
    """How much of the update eps decides."""

    entries: float
    """Share of the entries whose sqrt(v^) is below eps."""
    entries_near: float
    """The same below ten times eps."""
    magnitude: float
    """Share of ||u||^2 in the entries below eps."""
    factor: float
    """Mean of sqrt(v^) / (sqrt(v^) + eps): what eps leaves of the step."""

    @classmethod
    def of(cls, sums: Sums) -> "Epsilon":
        """From the sums over one or more entries."""
        sound = max(sums.entries - sums.negative - sums.not_finite, 1)
        return cls(
            sums.below / max(sums.entries, 1),
            sums.near / max(sums.entries, 1),
            sums.squares_below / (sums.update_squares or 1.0),
            sums.factors / sound,
        )


@dataclass(frozen=True)
class Violations:
    """Entries of the moments that no sequence of gradients can have made."""

    bound: int
    """How many entries of the first moment are above C sqrt(v), roundings of the stored dtype allowed for.

    Under AMSGrad entries whose largest second moment is below the present one count too.
    """
    negative: int
    """How many entries of the second moment are below 0."""
    not_finite: int
    """How many entries have a moment that is NaN or infinite."""
    vanished: bool
    """Whether m is 0 in every entry, where v is not."""

    @classmethod
    def of(cls, sums: Sums, moments: Moments) -> "Violations":
        """From the sums over a tensor."""
        vanished = bool(sums.second_moments) and not sums.first_moments and moments.beta1 > 0.0
        return cls(sums.beyond, sums.negative, sums.not_finite, vanished)

    @property
    def total(self) -> int:
        """All entries, and those of a moment that vanished."""
        return self.bound + self.negative + self.not_finite + self.vanished


@dataclass(frozen=True)
class Lost:
    """What rounding takes of the step, for weights in 16 bits."""

    entries: float | Missing
    """Share of the entries that would change, and stay as they are."""
    magnitude: float | Missing
    """Share of the sum of |eta u| that is lost."""
    half_rate: float | Missing
    """The learning rate below which more than half of the updates are lost."""
    decay: float | Missing
    """Share of the entries that weight decay alone would change, and that stay as they are."""


@dataclass(frozen=True)
class LayerState:
    """What is known of one tensor and its moments."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    moments_dtype: str | None
    """As the moments are stored; None without any."""
    learning_rate: float | Missing
    weight_decay: float | Missing
    step: float | Missing
    """Updates made of it."""
    update_rms: float | Missing
    """Root mean square of u; of independent gradients under Adam sqrt((1 - beta1) / (1 + beta1))."""
    relative_update: float | Missing
    """||eta u|| / ||W||."""
    decay_share: float | Missing
    """eta lambda ||W|| over itself and ||eta u||, of decoupled decay."""
    lost: Lost | Missing
    master: bool
    """Whether the weights have a float32 copy in the state, on which size and step are measured."""
    master_differs: int | Missing
    """Entries of the 16-bit weights that are not the rounded copy."""
    rounded_to: str | None
    """The 16-bit dtype whose values are all that float32 weights, or their copy, hold; None: they hold more digits."""
    violations: Violations | Missing
    epsilon: Epsilon | Missing
    weights_finite: bool
    """Whether every weight of the tensor is a finite number."""
    dead_rows: int | Missing
    """Rows along the first dimension that never had a gradient: their v is 0."""


@dataclass(frozen=True)
class GroupState:
    """One parameter group."""

    tensors: int
    learning_rate: float | Missing
    weight_decay: float | Missing
    timescale: float | Missing
    """Steps in which decay at this rate takes weights to 1/e: 1 / (eta lambda), of SGD over the gain of momentum."""
    remaining: float | Missing
    """Share of the initial weights that decay has left so far: exp(-sum of eta lambda)."""
    rates_told: bool
    """Whether more than one rate of the run is known; else the saved one stands for all."""


@dataclass(frozen=True)
class Totals:
    """The numbers of all tensors together."""

    tensors: int
    parameters: int
    update_rms: float | Missing
    relative_update: float | Missing
    """||eta u|| / ||W|| over all tensors with moments."""
    noise_rms: float | Missing
    """What update_rms would be if gradients were independent of mean 0."""
    lost: Lost | Missing
    violations: int
    """How many entries of the moments no gradients can have made, over all tensors.

    A tensor whose first moment vanished counts one more.
    """


@dataclass(frozen=True)
class FileState:
    """One checkpoint of the run."""

    path: str
    step: int | Missing
    updates: float | Missing
    """As its optimizer's state counts them."""
    learning_rate: float | Missing
    """Of the first group."""
    relative_update: float | Missing
    """||eta u|| / ||W|| over all tensors."""
    update_rms: float | Missing
    lost: Lost | Missing
    violations: int
    """How many entries of the moments no gradients can have made, over all tensors."""


@dataclass(frozen=True)
class Broken:
    """Entries that are where no sequence of gradients can have brought them."""

    entries: int
    names: tuple[str, ...]
    """Of their tensors, those with the most entries first."""


@dataclass(frozen=True)
class Continuation:
    """Whether a checkpoint follows from the one before."""

    first: str
    """Where the earlier one is."""
    last: str
    steps: int | Missing
    """Between the files."""
    updates: float | Missing
    """Between them as the optimizer's state counts."""
    restarted: bool
    """Whether that count began again."""
    counts_differ: bool
    """Whether it grew otherwise than the steps."""
    remembered: float | Missing
    """What is certainly left of v: beta2^updates, roundings allowed for."""
    second_moments: Broken | Missing
    """Entries whose second moment is smaller than what must be left of the earlier one."""
    first_moments: Broken | Missing
    """Entries whose first moment changed by more than the second moments allow.

    After d updates: |m_B - beta1^d m_A| beyond C_d sqrt(v_B - beta2^d v_A).
    """
    weights: Broken | Missing
    """Entries of the weights that moved further than the learning rates in between allow.

    |W_B - W_A f| beyond the sum of eta C, where f is what decay leaves.
    """
    weights_far: Broken | Missing
    """Ten times as far."""
    rates_told: bool
    """Whether a schedule or a log tells the rates between; else the larger of the two ends stands for them."""
    unchanged: tuple[str, ...]
    """Tensors that hold the same bytes."""
    frozen: tuple[str, ...]
    """Those of them whose moments changed, and whose step is not too small for the dtype."""
    stale: tuple[str, ...]
    """Tensors that moved while their moments stayed the same."""
    emptied: tuple[str, ...]
    """Tensors whose moments became 0 in every entry."""

    @property
    def broken(self) -> bool:
        """Whether it does not follow from the one before."""
        bounds = (self.second_moments, self.first_moments, self.weights if self.rates_told else self.weights_far)
        beyond = any(found.entries for bound in bounds if (found := known(bound)) is not None)
        return self.restarted or self.counts_differ or bool(self.stale or self.emptied) or beyond


@dataclass(frozen=True)
class ReplicaState:
    """What is stored more than once, and whether its copies agree."""

    name: str
    kind: Literal["tensor", "buffer", "setting"]
    """What is trained, what is not, or a number of the optimizer's."""
    files: tuple[str, ...]
    """That of the copy that is read, then those of the copies that differ; all where none does."""
    entries: int
    differ: int | Missing
    """Entries in which a copy differs from the one that is read: those of the copy with the most."""
    largest: float | Missing
    """The largest |a - b| / max(|a|, |b|) of them."""


@dataclass(frozen=True)
class StateResult:
    """What one optimizer's state says."""

    step: int | Missing
    """Of the file."""
    optimizer: str | None
    """Its kind; None where it is not recognised."""
    optimizers: int
    """How many train the model."""
    state_step: int | Missing
    """Updates that the state counts."""
    totals: Totals
    groups: tuple[GroupState, ...]
    layers: tuple[LayerState, ...]
    """In the file's order."""
    slots: tuple[LayerState, ...]
    """What is known of the optimizer's slots that could not be matched to a tensor, by their number."""
    steps_differ: tuple[str, ...]
    """Tensors whose count of updates is another than most have."""
    never_updated: tuple[str, ...]
    """Tensors without moments beside others that have some."""
    counts_updates: bool
    """Whether the steps of the files are known to count updates: by another file, or by the scheduler."""
    files: tuple[FileState, ...]
    """Every checkpoint, first to last."""
    continuity: tuple[Continuation, ...]
    """Of each checkpoint but the first."""
    rate_breaks: tuple[RateBreak, ...]
    """Where the learning rate does not go on, or its sources disagree."""
    replicas: tuple[ReplicaState, ...] = ()
    """What is stored more than once."""
