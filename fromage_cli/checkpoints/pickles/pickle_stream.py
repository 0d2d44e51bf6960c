"""The bytes of a pickle, read a little at a time: no claim of a length is believed before those bytes are there."""

from pathlib import Path
from typing import Protocol

from fromage_cli.checkpoints.storage.files import CUT_OFF, input_errors_about, quoted
from fromage_cli.errors import InputError

READ_AHEAD = 1 << 16
"""Bytes read at a time: a pickle of a large network has some hundred thousand."""
LONGEST_PICKLE_LINE = 1 << 16
"""Bytes of a number or a name in the textual opcodes of protocol 0, where names have some hundred."""


class GivenUp(InputError):
    """A pickle takes more than is granted here; an ordinary unpickler would go on."""


class Readable(Protocol):
    """An open file, or some bytes of one."""

    def seek(self, position: int, /) -> object:
        """Go to a position."""

    def read(self, count: int, /) -> bytes:
        """Return the next bytes, at most `count`."""


class PickleStream:
    """A part of a file as a sequence of opcodes and arguments."""

    def __init__(
        self,
        file: Readable,
        path: Path,
        end: int,
        begin: int = 0,
        part: str = "",
        *,
        longest_line: int = LONGEST_PICKLE_LINE,
    ) -> None:
        """`begin` and `end`: bytes from the start of `file`; `part`: what it is called inside `path`."""
        self.begin = begin
        self.frame_end = 0
        """Where the present frame ends, or the last one did."""
        self._longest_line = longest_line
        self._file, self._path, self._end, self._part = file, path, end, part
        self._buffer, self._place, self._after = b"", 0, begin

    @property
    def position(self) -> int:
        """Return where the next byte is, from the start of the file."""
        return self._after - len(self._buffer) + self._place

    @property
    def remaining(self) -> int:
        """Return how many bytes may still come."""
        return self._end - self.position

    def byte(self) -> int:
        """Return the next byte."""
        if self._place >= len(self._buffer):
            self._fill(1)
        self._place += 1
        return self._buffer[self._place - 1]

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if self._place + count > len(self._buffer):
            self._fill(count)
        self._place += count
        return self._buffer[self._place - count : self._place]

    def unsigned(self, width: int) -> int:
        """Return the next `width` bytes as a number, little endian."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """Return the bytes up to the next newline, without it; like Python, the last without its last byte."""
        while (newline := self._buffer.find(b"\n", self._place)) < 0:
            if len(self._buffer) - self._place > self._longest_line:
                raise self.given_up(f"a line has more than {self._longest_line} bytes")
            if self._after == self._end and self._place < len(self._buffer):
                rest, self._place = self._buffer[self._place : -1], len(self._buffer)
                return rest
            held = len(self._buffer) - self._place
            self._fill(held + max(1, min(held, self.remaining - held)))  # twice as much, for lines of any length
        line = self._buffer[self._place : newline]
        self._place = newline + 1
        return line

    def begin_frame(self, length: int) -> None:
        """Let nothing be read across the end of the next `length` bytes: there Python's readers differ.

        The one in C forgets what is left of the frame, the one in Python raises; picklers write whole opcodes.
        """
        end = self.position + length
        if self.position < self.frame_end:
            if end > self.frame_end:
                raise self.given_up("a frame crosses the end of another")
            return
        self.frame_end = end
        if (beyond := self._after - end) > 0:
            self._buffer, self._after = self._buffer[:-beyond], end

    def damaged(self, reason: str) -> InputError:
        """Return the error for a pickle that no pickler writes."""
        return InputError(
            f"{self.name} cannot be read: {reason} at byte {self.position - self.begin} of its pickle.",
            hint="It is damaged, was made to mislead, or is not a pickle. Copy or save it again.",
        )

    def given_up(self, reason: str) -> GivenUp:
        """Return the error for a pickle that asks for more than is granted."""
        return GivenUp(
            f"{self.name} cannot be read: {reason}. Reading stopped at byte {self.position - self.begin} "
            "of its pickle.",
            hint="It is damaged, was made to mislead, or is not a pickle. Copy or save it again.",
        )

    def cut_off(self, count: int) -> InputError:
        """Return the error for a pickle that ends `count` bytes too early."""
        return InputError(
            f"{self.name} is incomplete: at byte {self.position - self.begin} of its pickle {count} more "
            f"bytes were expected, but {max(self.remaining, 0)} are left.",
            hint=CUT_OFF,
        )

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return f"{quoted(self._path)} ({self._part!r})" if self._part else quoted(self._path)

    def _fill(self, count: int) -> None:
        """Let the buffer begin at the present position and hold at least `count` bytes."""
        if count > self.remaining:
            raise self.cut_off(count)
        rest = self._buffer[self._place :]
        wanted = max(count, min(READ_AHEAD, self.remaining)) - len(rest)
        if self.position < self.frame_end < self.position + len(rest) + wanted:
            if self.position + count > self.frame_end:
                raise self.given_up("an opcode crosses the end of its frame")
            wanted = self.frame_end - self._after
        with input_errors_about(self._path):
            self._file.seek(self._after)
            fresh = self._file.read(wanted)
        if len(rest) + len(fresh) < count:
            raise self.cut_off(count)
        self._buffer, self._place, self._after = rest + fresh, 0, self._after + len(fresh)
