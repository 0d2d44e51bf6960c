"""What a diagnostic concludes: a coded sentence with the number, the limit it was held against and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One conclusion about a network, or about one of its layers."""

    code: str
    """Stable identifier in kebab-case, for scripts."""
    severity: Severity
    """`info` never changes the exit status; `warn` and `fail` do under `--fail-on`."""
    message: str
    """One sentence with the measured number in it."""
    layer: str | None = None
    """Name of the layer it is about; None for the whole network."""
    value: float | None = None
    """The number that was measured."""
    limit: float | None = None
    """The number it was held against."""
    hint: str = ""
    """What to do about it."""


def only_one(names: Sequence[str]) -> str | None:
    """The layer that a finding is about: the only one of these, or None where there are several."""
    return names[0] if len(names) == 1 else None
