"""What a measurement gives, whole or in part, with the notes that it makes on the way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fromage_cli.errors import FromageError
from fromage_cli.missing import found_of


@dataclass(frozen=True)
class Measured:
    result: Any
    error: FromageError | None
    notes: tuple[str, ...]


def run_measurement(measure: Callable[..., Any], *arguments: Any, **options: Any) -> Measured:
    """Runs one that takes `note`."""
    notes: list[str] = []
    found, error = found_of(measure(*arguments, note=notes.append, **options))
    return Measured(found, error, tuple(notes))
