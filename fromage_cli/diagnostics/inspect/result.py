"""What `inspect` found: plain numbers about tensors and settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fromage_cli.missing import Missing, Why

NOT_READ = Missing(Why.NOT_ASKED, "only headers were read")
NO_WEIGHTS = Missing(Why.NOT_DEFINED, "the file holds an optimizer's state and no weights")
NO_SPECTRUM = Missing(Why.NOT_ASKED, "singular values were not asked for")
NOT_COMPARED = Missing(
    Why.NO_STEPS_BETWEEN, "it takes several checkpoints of one network, and stands with the last of them"
)
UNKNOWN_DTYPE = Missing(Why.DTYPE_UNKNOWN, "how numbers of this dtype are stored is not known")


@dataclass(frozen=True)
class TensorResult:
    """One tensor."""

    name: str
    dtype: str
    """torch's name without `torch.`."""
    shape: tuple[int, ...]
    elements: int
    norm: float | Missing
    """Frobenius norm ‖W‖; not finite where an entry is not."""
    rms: float | Missing
    """‖W‖ / √elements."""
    max_abs: float | Missing
    """Largest absolute value."""
    nonfinite: int | Missing
    """Entries that are nan or infinite."""
    nan: int | Missing
    """Entries that are nan."""
    zeros: int | Missing
    """Entries that are zero."""
    spectral_norm: float | Missing = NO_SPECTRUM
    """‖W‖₂, the largest singular value of W as out × all other dimensions."""
    stable_rank: float | Missing = NO_SPECTRUM
    """‖W‖² / ‖W‖₂²."""
    condition_number: float | Missing = NO_SPECTRUM
    """Largest over smallest singular value; infinite without full rank, missing for large matrices."""


@dataclass(frozen=True)
class DtypeTotal:
    """All tensors of one dtype, each tied one once."""

    dtype: str
    tensors: int
    elements: int
    bytes: int | Missing
    """Missing for a dtype of unknown width."""


@dataclass(frozen=True)
class Totals:
    """The whole file."""

    tensors: int
    """Names, tied ones too."""
    parameters: int
    """Floating-point elements, tied tensors once; buffers among them."""
    bytes: int
    """Of elements, tied tensors once."""
    nonfinite: int | Missing
    zeros: int | Missing
    dtypes: tuple[DtypeTotal, ...]


@dataclass(frozen=True)
class GroupResult:
    """Parameters that share their settings."""

    parameters: int
    """How many tensors."""
    names: tuple[str, ...] | None
    """Their names; None where neither the optimizer nor the shapes tell."""
    learning_rate: float | Missing
    betas: tuple[float, float] | None
    """None where it has none; so for momentum."""
    momentum: float | None
    weight_decay: float | Missing
    settings: Mapping[str, str | float | bool | None]
    """All settings that are single values, as the optimizer names them."""


@dataclass(frozen=True)
class OptimizerResult:
    """The optimizer saved beside the weights."""

    kind: str | None
    """Guessed from slots and settings; None where nothing fits."""
    step: int | Missing
    """Updates made."""
    slots: tuple[str, ...]
    """What it remembers of each parameter."""
    groups: tuple[GroupResult, ...]
    never_updated: tuple[str, ...] = ()
    """Tensors of two or more dimensions without a slot beside others that have one."""


@dataclass(frozen=True)
class LogResult:
    """The last numbers that a trainer's log has, up to the checkpoint's step where that is known."""

    file: str
    """Seen from the directory of the weights."""
    records: int
    step: int | Missing
    loss: float | Missing
    """Training loss."""
    learning_rate: float | Missing
    not_finite: int
    """Records whose loss is not finite."""


@dataclass(frozen=True)
class NamedCode:
    """A class or function that a pickle names, or code in an archive."""

    place: str
    """The file of a directory and the member of an archive; empty for the file itself."""
    module: str
    name: str
    use: str
    """What an ordinary loader does: `import`, then any of `call`, `create`, `build`, `run`, `change`; or `code`."""
    verdict: Literal["allowed", "inert", "unknown", "dangerous"]
    """Needed for tensors and settings; holds values only; not known; known to run code or reach files."""
    would: str
    """The same in words."""


@dataclass(frozen=True)
class SafetyResult:
    """What would run in a file or a directory where an ordinary loader reads it."""

    pickles: int
    """How many there are."""
    safety: tuple[NamedCode, ...]
    unread: tuple[str, ...]
    """Pickles that were cut off, damaged or beyond the limits, and why."""


@dataclass(frozen=True)
class UnchangedResult:
    """Layers that hold the same bytes in several checkpoints of one network."""

    checkpoints: int
    """How many were compared: all of the network that were named and could be read."""
    layer_count: int
    """Layers of the network, each tied one once."""
    layers: tuple[str, ...]
    """Those that hold the same bytes in every checkpoint."""


@dataclass(frozen=True)
class InspectResult:
    """What is in one checkpoint."""

    format: str
    step: int | Missing
    key: str | None
    """The nested dictionary that was taken."""
    totals: Totals
    optimizer: OptimizerResult | None
    tied: tuple[tuple[str, ...], ...]
    """Names of one and the same memory."""
    duplicates: tuple[tuple[str, ...], ...] | Missing
    """Names of equal bytes, beyond the tied ones and constants."""
    reading: str
    """What the format allows a file to do when it is read, and what was done."""
    safety: tuple[NamedCode, ...]
    """Every class and function that the pickles which were read name."""
    tensors: tuple[TensorResult, ...]
    logs: tuple[LogResult, ...] = ()
    """Trainers' logs beside it."""
    unchanged: UnchangedResult | Missing = NOT_COMPARED
    """Told with the last checkpoint of a network of which several were inspected."""
    also_holds: Mapping[str, object] = field(default_factory=dict)
    """What it holds beside weights and optimizer, by name: settings, counters; shortened where it is long or deep."""
