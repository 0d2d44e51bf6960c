"""How often the same dictionaries are walked through: a small file can hold one of them ten thousand times."""

from collections.abc import Sized
from typing import TypeVar

from fromage_cli.errors import InputError

Held = TypeVar("Held", bound=Sized)
BASE_LOOKS, LOOKS_PER_ENTRY = 50_000, 16
"""Entries that may be looked at, whatever there is, and for each entry that there is once.

A dictionary of weights is looked at from itself and from the few around it; 50,000 looks take a few milliseconds.
"""


class Repetition:
    """Counts what is looked at against what there is."""

    def __init__(self) -> None:
        self._looks, self._distinct = 0, 0
        self._seen: dict[int, Sized] = {}

    def look(self, held: Held) -> Held:
        """Return the same container; raises InputError where some were looked at far more often than there are any."""
        size = len(held) + 1
        self._looks += size
        if id(held) not in self._seen:
            self._seen[id(held)] = held
            self._distinct += size
        if self._looks > BASE_LOOKS + LOOKS_PER_ENTRY * self._distinct:
            raise repeated()
        return held


def repeated() -> InputError:
    """Return the error for what has no end, or nearly none."""
    return InputError(
        "What was saved holds itself, or parts of itself many times over.",
        hint="Save the weights alone: torch.save(model.state_dict(), 'weights.pt').",
    )
