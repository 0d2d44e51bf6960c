"""The memory and the processor time that all pickles of one file may take together, by how many bytes they are.

What a pickle claims costs nothing until its bytes are there; what those bytes cost is counted here. One account for a
file: many small pickles, pickles inside of pickles and compressed ones get no more than a single one of their length.
"""

import time

BASE_BYTES = 64_000_000
"""Memory that the objects of any file may take: about what Python and its modules take anyway."""
BYTES_PER_BYTE, FIRST_BYTES_PER_BYTE, FIRST_BYTES = 2, 16, 2_000_000
"""Memory that is granted beside for every byte of the file, and for each of its first ones.

Pickles of names and shapes need up to 16 bytes for each of theirs; large ones are mostly bytes of tensors.
"""
BASE_SECONDS, SECONDS_PER_BYTE = 0.5, 2e-6
"""Processor time, likewise; opcodes take an eighth of that."""


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
