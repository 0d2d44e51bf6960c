"""Where a reader's bytes come from: a file, a part of one, or bytes that a pickle holds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fromage_cli.checkpoints.storage.files import FileVersion, changed, input_errors_about, opened


class Window:
    """An open file of which only some bytes are seen; positions count from the first of them."""

    def __init__(self, file: BinaryIO, path: Path, begin: int, size: int) -> None:
        self._file, self._path, self._begin, self._size = file, path, begin, size
        self._position = 0

    def seek(self, position: int) -> None:
        """Go to a position."""
        with input_errors_about(self._path):
            self._file.seek(self._begin + position)
        self._position = position

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most `count`."""
        with input_errors_about(self._path):
            stored = self._file.read(max(0, min(count, self._size - self._position)))
        self._position += len(stored)
        return stored

    def fill(self, view: memoryview) -> None:
        """Fill a buffer with the next bytes; InputError when the file has become shorter."""
        with input_errors_about(self._path):
            count = self._file.readinto(view) if len(view) <= self._size - self._position else 0  # type: ignore[attr-defined]
        if count != len(view):
            raise changed(self._path)
        self._position += len(view)


@dataclass(frozen=True)
class Source:
    """Bytes that can be opened again and again."""

    path: Path
    """The file that they come from."""
    size: int
    version: FileVersion | None = None
    """The state of the file; None where the bytes are in memory."""
    begin: int = 0
    """Where they begin in the file."""
    stored: bytes = b""
    """The bytes themselves, where they are in memory."""

    @classmethod
    def of_file(cls, path: Path) -> Source:
        """Return a whole file; raises InputError unless it is a regular one."""
        version = FileVersion.of(path)
        return cls(path, version.size, version)

    @classmethod
    def of_part(cls, path: Path, begin: int, size: int) -> Source:
        """Return a part of a file."""
        version = FileVersion.of(path)
        if begin < 0 or size < 0 or begin + size > version.size:
            raise changed(path)
        return cls(path, size, version, begin)

    @classmethod
    def of_bytes(cls, path: Path, stored: bytes) -> Source:
        """Return bytes that were read from a file."""
        return cls(path, len(stored), stored=stored)

    @contextmanager
    def open(self) -> Iterator[Window]:
        """Open them for reading; raises InputError when the file is not what it was."""
        self.check_unchanged()
        if self.version is None:
            yield Window(io.BytesIO(self.stored), self.path, 0, self.size)
            return
        with opened(self.path) as file:
            file.seek(self.begin)
            yield Window(file, self.path, self.begin, self.size)

    def check_unchanged(self) -> None:
        """Raise InputError when the file is not what it was."""
        if self.version is not None:
            self.version.check_unchanged()

    def read_into(self, begin: int, view: memoryview) -> None:
        """Fill a buffer from a position; raises InputError when the file is not what it was."""
        with self.open() as file:
            file.seek(begin)
            file.fill(view)
