"""How much the pickles of a file may ask for, by how many bytes they are: memory, time, and looks at what they hold.

What a pickle claims costs nothing until its bytes are there; what those bytes cost is counted here. One account for a
file: many small pickles, pickles inside of pickles and compressed ones get no more than a single one of their length.
What was read can hold one dictionary ten thousand times, and is walked through only so often.
"""

import time
from collections.abc import Sized
from typing import TypeVar

from fromage_cli.errors import InputError

Held = TypeVar("Held", bound=Sized)
BASE_BYTES = 64_000_000
"""Memory that the objects of any file may take: about what Python and its modules take anyway."""
BYTES_PER_BYTE, FIRST_BYTES_PER_BYTE, FIRST_BYTES = 2, 16, 2_000_000
"""Memory that is granted beside for every byte of the file, and for each of its first ones.

Pickles of names and shapes need up to 16 bytes for each of theirs; large ones are mostly bytes of tensors.
"""
BASE_SECONDS, SECONDS_PER_BYTE = 0.5, 2e-6
"""Processor time, likewise; opcodes take an eighth of that."""
BASE_LOOKS, LOOKS_PER_ENTRY = 50_000, 16
"""Entries that may be looked at, whatever there is, and for each entry that there is once.

A dictionary of weights is looked at from itself and from the few around it; 50,000 looks take a few milliseconds.
"""
MOST_CHARACTERS = 16_000_000
"""Characters of all dotted names that are made of keys: those of 200,000 tensors; one long key can stand in each."""


class Allowance:
    """What is left for the pickles of one file."""

    def __init__(self, size: int, base: int = BASE_BYTES, seconds: float = BASE_SECONDS) -> None:
        """`size`: bytes in the file, compressed ones as they are stored; time runs from now on."""
        first = (FIRST_BYTES_PER_BYTE - BYTES_PER_BYTE) * min(size, FIRST_BYTES)
        self._bytes = base + BYTES_PER_BYTE * size + first
        self._ends = time.thread_time() + seconds + SECONDS_PER_BYTE * size

    def charge(self, count: int) -> bool:
        """Count memory, in bytes, as taken; return whether it may be."""
        self._bytes -= count
        return self._bytes >= 0

    @property
    def in_time(self) -> bool:
        """Tell whether there is processor time left."""
        return time.thread_time() <= self._ends


class Repetition:
    """Counts what is looked at against what there is."""

    def __init__(self) -> None:
        self._looks, self._distinct, self._characters = 0, 0, 0
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

    def dotted(self, *parts: str) -> str:
        """Return the parts of a name joined by dots; raises InputError where all such names are too long together."""
        self._characters += sum(map(len, parts)) + len(parts)
        if self._characters > MOST_CHARACTERS:
            raise InputError(
                f"The dotted names of its tensors have more than {MOST_CHARACTERS} characters in all.",
                hint="A very long key contains very many others. Save the weights alone.",
            )
        return ".".join(parts)


def repeated() -> InputError:
    """Return the error for what has no end, or nearly none."""
    return InputError(
        "The file's content contains itself, or repeats parts of itself many times.",
        hint="Save the weights alone: torch.save(model.state_dict(), 'weights.pt').",
    )
