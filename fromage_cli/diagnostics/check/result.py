"""What `check` finds: plain data whose field names are the JSON keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fromage_cli.missing import Missing, Why

if TYPE_CHECKING:
    from fromage_cli.probes.forward_pass.measure import ForwardPass

Beside = Literal["siblings", "network", "usual size"]
Verdict = Literal["go", "look", "stop"]

NO_BASELINE = Missing(Why.NOT_ASKED, "--baseline names no earlier answer")


@dataclass(frozen=True)
class Skipped:
    """A diagnostic that could not look."""

    command: str
    reason: str
    """A sentence."""
    limited: bool = False
    """Whether a limit on time or memory kept it from looking."""


@dataclass(frozen=True)
class OutOfLine:
    """A matrix that differs from others of its network."""

    name: str
    factor: float
    """Its root mean square over that of the others, the trend along depth taken out of siblings."""
    among: Beside
    """`siblings`: those of the same shape in the same place of other blocks. `network`: all matrices, each root mean
    square times the square root of the inputs. `usual size`: Kaiming initialisation, where there are few matrices."""


@dataclass(frozen=True)
class Number:
    """A number of a command's summary."""

    command: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Change:
    """A number of a command's summary that is another than in the baseline."""

    command: str
    name: str
    before: float
    now: float


@dataclass(frozen=True)
class Comparison:
    """What an earlier answer of `check` said, beside this one."""

    path: str
    """Of the answer."""
    checkpoint: str
    """The last that it judged, which may be another run's."""
    step: int | None
    """Of its last checkpoint."""
    verdict: Verdict
    new: tuple[str, ...]
    """Codes of warnings and failures that the earlier answer had not."""
    known: tuple[str, ...]
    """Codes of those that it had, no graver than now; they are for information here."""
    gone: tuple[str, ...]
    """Codes of those that are here no more."""
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class CheckResult:
    """One verdict, and what it rests on."""

    verdict: Verdict
    """`stop` for a failure, `look` for a warning, else `go`."""
    looked: tuple[str, ...]
    """The commands that judged, in the order in which they ran."""
    skipped: tuple[Skipped, ...]
    out_of_line: tuple[OutOfLine, ...]
    """In the last file."""
    numbers: tuple[Number, ...]
    """Those of the commands' summaries that are finite."""
    baseline: Comparison | Missing
    forward_pass: "ForwardPass | Missing"
    """What one forward pass on the batch tells."""
    results: Mapping[str, object]
    """What each command found, by its name."""
