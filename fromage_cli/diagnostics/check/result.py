"""What `check` finds: plain data whose field names are the JSON keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fromage_cli.missing import Missing, Why

if TYPE_CHECKING:
    from fromage_cli.probes.forward_pass.measure import ForwardPass

NO_NETWORK = Missing(Why.NO_MODEL, "no network was given")
Verdict = Literal["go", "look", "stop"]


@dataclass(frozen=True)
class Skipped:
    """A diagnostic that could not look."""

    command: str
    reason: str
    """A sentence."""


@dataclass(frozen=True)
class OutOfLine:
    """A matrix that differs from its siblings: those of the same shape in the same place of other blocks."""

    name: str
    factor: float
    """Its root mean square over the siblings' median, the trend along depth taken out."""


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
    results: Mapping[str, object]
    """What each command found, by its name."""
    forward_pass: "ForwardPass | Missing" = NO_NETWORK
    """What one forward pass on the batch tells."""
