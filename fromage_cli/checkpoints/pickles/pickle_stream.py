"""The bytes of a pickle, read a little at a time: no claim of a length is believed before those bytes are there."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fromage_cli.checkpoints.storage.files import explained, quoted
from fromage_cli.errors import InputError

WINDOW = 1 << 16
"""Bytes read at a time."""
LONGEST_LINE = 1 << 16
"""Bytes of a number or a name in the textual opcodes of protocol 0."""


class Readable(Protocol):
    """An open file, or some bytes of one."""

    def seek(self, position: int, /) -> object:
        """Go to a position."""

    def read(self, count: int, /) -> bytes:
        """The next bytes, at most `count`."""


class PickleStream:
    """A part of a file as a sequence of opcodes and arguments."""

    def __init__(self, file: Readable, path: Path, end: int, begin: int = 0, part: str = "") -> None:
        """`begin` and `end`: bytes from the start of `file`; `part`: what it is called inside `path`."""
        self.begin = begin
        self._file, self._path, self._end, self._part = file, path, end, part
        self._window, self._place, self._after = b"", 0, begin

    @property
    def position(self) -> int:
        """Where the next byte is, from the start of the file."""
        return self._after - len(self._window) + self._place

    @property
    def remaining(self) -> int:
        """How many bytes may still come."""
        return self._end - self.position

    def byte(self) -> int:
        """The next byte."""
        if self._place >= len(self._window):
            self._fill(1)
        self._place += 1
        return self._window[self._place - 1]

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self._place + count > len(self._window):
            self._fill(count)
        self._place += count
        return self._window[self._place - count : self._place]

    def unsigned(self, width: int) -> int:
        """The next `width` bytes as a number, little endian."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """The bytes up to the next newline, without it."""
        while (newline := self._window.find(b"\n", self._place)) < 0:
            if len(self._window) - self._place > LONGEST_LINE:
                raise self.damaged(f"a line of more than {LONGEST_LINE} bytes")
            self._fill(len(self._window) - self._place + 1)
        line = self._window[self._place : newline]
        self._place = newline + 1
        return line

    def damaged(self, reason: str) -> InputError:
        """The error for a pickle that no pickler writes."""
        return InputError(
            f"{self.name} cannot be read: {reason} at byte {self.position - self.begin} of its pickle.",
            hint="It is damaged, was made to mislead, or is no pickle; copy or save it again.",
        )

    def cut_off(self, count: int) -> InputError:
        """The error for a pickle that ends `count` bytes too early."""
        return InputError(
            f"{self.name} is incomplete: {count} more bytes were expected at byte {self.position - self.begin} of its "
            f"pickle, {max(self.remaining, 0)} are left.",
            hint="It was cut off while it was written or copied; take an earlier checkpoint or copy it again.",
        )

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{quoted(self._path)} ({self._part!r})" if self._part else quoted(self._path)

    def _fill(self, count: int) -> None:
        """Let the window begin at the present position and hold at least `count` bytes."""
        if count > self.remaining:
            raise self.cut_off(count)
        rest = self._window[self._place :]
        wanted = max(count, min(WINDOW, self.remaining)) - len(rest)
        with explained(self._path):
            self._file.seek(self._after)
            fresh = self._file.read(wanted)
        if len(rest) + len(fresh) < count:
            raise self.cut_off(count)
        self._window, self._place, self._after = rest + fresh, 0, self._after + len(fresh)
