"""MessagePack, read without running or building anything but plain values; long binary content stays in the file.

Source: the MessagePack specification, github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.errors import InputError

DEEPEST = 64
"""Maps and arrays inside of each other."""
MOST = 200_000
"""Values in one file."""
LONGEST = 1_000_000
"""Bytes of a text."""
WINDOW = 1 << 14
"""Bytes read at a time."""
INLINE = 64
"""Binary content up to this many bytes is read; of more only the place is kept."""
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
_NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_LENGTHS = {0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4), 0xC4: ("bytes", 1), 0xC5: ("bytes", 2)}
_LENGTHS |= {0xC6: ("bytes", 4), 0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}
_LENGTHS |= {0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4)}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


@dataclass(frozen=True)
class Stretch:
    """Bytes that were left in the file."""

    begin: int
    size: int


Extension = Callable[[int, "MsgpackStream"], Any]
"""From an extension's code and the stream at its content to a value."""


class MsgpackStream:
    """Values of a MessagePack file, one after another."""

    def __init__(self, file: Window, source: Source, extension: Extension) -> None:
        self._file, self._source, self._extension = file, source, extension
        self.position, self._count, self._depth = 0, 0, 0
        self._window, self._begin = b"", 0

    def value(self) -> Any:
        """The next value."""
        self._count += 1
        if self._depth > DEEPEST or self._count > MOST:
            raise self.damaged(f"more than {DEEPEST} levels or {MOST} values")
        code = self._take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            form = _NUMBERS[code]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        self._depth += 1
        found = self._compound(*self._kind(code))
        self._depth -= 1
        return found

    def _compound(self, kind: str, length: int) -> Any:
        if kind == "text":
            return self._text(length)
        if kind == "bytes":
            return self._bytes(length)
        if kind == "extension":
            return self._extended(length)
        self._expect(length * (2 if kind == "map" else 1))
        if kind == "array":
            return [self.value() for _ in range(length)]
        return dict(self._pair() for _ in range(length))

    def _kind(self, code: int) -> tuple[str, int]:
        if 0x80 <= code <= 0x8F:
            return "map", code & 0x0F
        if 0x90 <= code <= 0x9F:
            return "array", code & 0x0F
        if 0xA0 <= code <= 0xBF:
            return "text", code & 0x1F
        if code in _FIXED_EXTENSIONS:
            return "extension", _FIXED_EXTENSIONS[code]
        if code not in _LENGTHS:
            raise self.damaged(f"the unknown code {code:#04x}")
        kind, width = _LENGTHS[code]
        return kind, int.from_bytes(self._take(width), "big")

    def _pair(self) -> tuple[Any, Any]:
        key = self.value()
        if not isinstance(key, str | int | bool | float | None):
            raise self.damaged(f"a {type(key).__name__} as a key")
        return key, self.value()

    def _text(self, length: int) -> str:
        if length > LONGEST:
            raise self.damaged(f"a text of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _bytes(self, length: int) -> bytes | Stretch:
        if length <= INLINE:
            return self._take(length)
        self._expect(length)
        stretch = Stretch(self.position, length)
        self.position += length
        return stretch

    def _extended(self, length: int) -> Any:
        code = int.from_bytes(self._take(1), "big", signed=True)
        self._expect(length)
        end = self.position + length
        found = self._extension(code, self)
        if self.position > end:
            raise self.damaged("an extension longer than it says")
        self.position = end
        return found

    def _take(self, count: int) -> bytes:
        self._expect(count)
        place = self.position - self._begin
        if not 0 <= place <= len(self._window) - count:
            self._file.seek(self.position)
            self._window, self._begin, place = self._file.read(max(count, WINDOW)), self.position, 0
        self.position += count
        return self._window[place : place + count]

    def _expect(self, count: int) -> None:
        """Raise unless so many bytes are left."""
        if count > self._source.size - self.position:
            raise InputError(
                f"{quoted(self._source.path)} is incomplete: expects {self.position + count} bytes or more, has "
                f"{self._source.size}.",
                hint="It was cut off while it was written or copied; take an earlier checkpoint or copy it again.",
            )

    def damaged(self, reason: str) -> InputError:
        """The error for a file that no serialiser writes."""
        return InputError(
            f"{quoted(self._source.path)} cannot be read: {reason} at byte {self.position} of its MessagePack.",
            hint="It is damaged, or no checkpoint; copy or save it again.",
        )
