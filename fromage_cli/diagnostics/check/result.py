"""What `check` finds: plain data whose field names are the JSON keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["go", "look", "stop"]


@dataclass(frozen=True)
class Skipped:
    """A diagnostic that could not look."""

    command: str
    reason: str
    """A sentence."""


@dataclass(frozen=True)
class Sibling:
    """A layer beside those of the same name and shape in other blocks."""

    name: str
    factor: float
    """Its root mean square over what the others and their trend along the depth tell of it."""
    siblings: int
    """How many others there are."""


@dataclass(frozen=True)
class CheckResult:
    """One verdict, and what it rests on."""

    verdict: Verdict
    """`stop` for a failure, `look` for a warning, else `go`."""
    looked: tuple[str, ...]
    """The commands that judged, in the order in which they ran."""
    skipped: tuple[Skipped, ...]
    siblings: tuple[Sibling, ...]
    """Every layer that has some, of the last file."""
    results: Mapping[str, object]
    """What each command found, by its name."""
