"""MessagePack, read without running or building anything but plain values; long binary content stays in the file.

Source: the MessagePack specification, github.com/msgpack/msgpack/blob/master/spec.md.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.storage.files import CUT_OFF, quoted
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.errors import InputError

MOST_NESTED_VALUES = 64
"""Maps and arrays inside of each other: networks have ten, and each takes a level of Python's own recursion."""
MOST_VALUES = 200_000
"""Values in one file: a hundred times those of a large network, and read in a second."""
LONGEST_TEXT = 1_000_000
"""Bytes of a text: names are far shorter."""
READ_AHEAD = 1 << 14
"""Bytes read at a time: names and shapes stand close together, between arrays that are skipped."""
INLINE = 64
"""Binary content up to this many bytes is read; of more only the place is kept."""
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
_NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_CONSTANTS: dict[int, Any] = {0xC0: None, 0xC2: False, 0xC3: True}
_CONSTANTS |= {code: code if code < 0x80 else code - 0x100 for code in (*range(0x80), *range(0xE0, 0x100))}
_LENGTHS = {0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4), 0xC4: ("bytes", 1), 0xC5: ("bytes", 2)}
_LENGTHS |= {0xC6: ("bytes", 4), 0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}
_LENGTHS |= {0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4)}
"""By code, a kind of value and the bytes of the length that follows."""
_SHORT = {code: ("map", code & 0x0F) for code in range(0x80, 0x90)}
_SHORT |= {code: ("array", code & 0x0F) for code in range(0x90, 0xA0)}
_SHORT |= {code: ("text", code & 0x1F) for code in range(0xA0, 0xC0)}
_SHORT |= {0xD4: ("extension", 1), 0xD5: ("extension", 2), 0xD6: ("extension", 4), 0xD7: ("extension", 8)}
_SHORT |= {0xD8: ("extension", 16)}
"""By code, a kind of value and its length."""


@dataclass(frozen=True)
class UnreadBytes:
    """Binary content that was left in the file."""

    begin: int
    size: int


Extension = Callable[[int, "MsgpackStream"], Any]
"""From an extension's code and the stream at its content to a value."""


class MsgpackStream:
    """Values of a MessagePack file, one after another."""

    def __init__(self, file: Window, source: Source, extension: Extension) -> None:
        self._file, self._source, self._extension = file, source, extension
        self.position, self._count, self._depth = 0, 0, 0
        self._buffer, self._begin = b"", 0

    def value(self) -> Any:
        """Return the next value; raises InputError where the file ends first, is damaged or beyond the limits."""
        self._count += 1
        if self._depth > MOST_NESTED_VALUES or self._count > MOST_VALUES:
            raise self.damaged(f"more than {MOST_NESTED_VALUES} levels or {MOST_VALUES} values")
        code = self._take(1)[0]
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            form = _NUMBERS[code]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if code in _SHORT:
            kind, length = _SHORT[code]
        elif code in _LENGTHS:
            kind, width = _LENGTHS[code]
            length = int.from_bytes(self._take(width), "big")
        else:
            raise self.damaged(f"the unknown code {code:#04x}")
        if kind == "text":
            if length > LONGEST_TEXT:
                raise self.damaged(f"a text of {length} bytes")
            return self._take(length).decode("utf-8", "replace")
        if kind == "bytes" and length <= INLINE:
            return self._take(length)
        if kind == "bytes":
            self._expect(length)
            self.position += length
            return UnreadBytes(self.position - length, length)
        self._depth += 1
        found = self._extended(length) if kind == "extension" else self._members(kind, length)
        self._depth -= 1
        return found

    def _members(self, kind: str, length: int) -> Any:
        """Return the members of an array, or the pairs of a map."""
        if kind == "array":
            self._expect(length)
            return [self.value() for _ in range(length)]
        self._expect(2 * length)
        pairs = {}
        for _ in range(length):
            key = self.value()
            if not isinstance(key, str | int | bool | float | None):
                raise self.damaged(f"a {type(key).__name__} as a key")
            pairs[key] = self.value()
        return pairs

    def _extended(self, length: int) -> Any:
        """Return what an extension stands for, and go to its end."""
        code = int.from_bytes(self._take(1), "big", signed=True)
        self._expect(length)
        end = self.position + length
        found = self._extension(code, self)
        if self.position > end:
            raise self.damaged("an extension longer than its stated length")
        self.position = end
        return found

    def _take(self, count: int) -> bytes:
        """Return the next bytes."""
        self._expect(count)
        place = self.position - self._begin
        if not 0 <= place <= len(self._buffer) - count:
            self._file.seek(self.position)
            self._buffer, self._begin, place = self._file.read(max(count, READ_AHEAD)), self.position, 0
        self.position += count
        return self._buffer[place : place + count]

    def _expect(self, count: int) -> None:
        """Raise InputError unless so many bytes are left: a member takes one at least."""
        if count > self._source.size - self.position:
            raise InputError(
                f"{quoted(self._source.path)} is incomplete: it needs at least {self.position + count} bytes, "
                f"but has {self._source.size}.",
                hint=CUT_OFF,
            )

    def damaged(self, reason: str) -> InputError:
        """Return the error for a file that no serialiser writes."""
        return InputError(
            f"{quoted(self._source.path)} cannot be read: {reason} at byte {self.position} of its MessagePack.",
            hint="It is damaged, or not a checkpoint. Copy or save it again.",
        )
