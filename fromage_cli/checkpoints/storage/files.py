"""Plain files on disk: every way in which one can fail to be readable has its own sentence."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from fromage_cli.checkpoints.names.naming import nearest
from fromage_cli.errors import InputError

HEAD = 512
"""Bytes from the beginning of a file by which its format is known; the mark of a tar archive ends at 262."""
READ_BLOCK = 1 << 20
"""Bytes read at a time: few calls, and small enough to stay in the processor's cache."""
CUT_OFF = "It was cut off while it was written or copied. Take an earlier checkpoint, or copy it again."
"""What to do about a file that ends too early."""
_IRREGULAR = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


def quoted(path: Path) -> str:
    """Return a path in quotes, control characters escaped."""
    return repr(str(path))


def irregular(mode: int) -> str:
    """Return what has this mode, such as `a directory`; nothing for a regular file."""
    return next((kind for is_kind, kind in _IRREGULAR if is_kind(mode)), "")


@dataclass(frozen=True)
class FileVersion:
    """One state of a regular file: as long as it is the same, what was learnt from the file still holds."""

    path: Path
    size: int  # bytes
    inode: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> FileVersion:
        """Look at a regular, non-empty file; anything else raises InputError."""
        status = status_of(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{quoted(path)} is a directory; expected a file.", hint="Name a file in it.")
        if kind := irregular(status.st_mode):
            raise InputError(
                f"{quoted(path)} is {kind}; expected a regular file.", hint="Copy its content into a file first."
            )
        if status.st_size == 0:
            raise InputError(
                f"{quoted(path)} is empty (0 bytes).",
                hint="The file was created but never written. Save the checkpoint again.",
            )
        return cls(path, status.st_size, status.st_ino, status.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raise InputError when the file was replaced, truncated or written to since."""
        if FileVersion.of(self.path) != self:
            raise changed(self.path)


def changed(path: Path) -> InputError:
    """Return the error for a file that is not what it was when it was opened."""
    return InputError(
        f"{quoted(path)} changed while it was being read.", hint="Run again when the writing is finished."
    )


def incomplete(path: Path, expected: int, actual: int) -> InputError:
    """Return the error for a file that is shorter than it says itself, in bytes."""
    return InputError(f"{quoted(path)} is incomplete: it should have {expected} bytes, but has {actual}.", hint=CUT_OFF)


def status_of(path: Path) -> os.stat_result:
    """Return the status of an existing path, or raise InputError naming what is nearest to it."""
    with input_errors_about(path):
        return path.stat()


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading; the operating system's refusals become InputErrors."""
    with input_errors_about(path), path.open("rb") as file:
        yield file


@contextmanager
def input_errors_about(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals about `path` into InputErrors."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing(path) from error
    except PermissionError as error:
        raise InputError(
            f"{quoted(path)} cannot be read: permission denied.",
            hint="Check the owner and the mode of the file (ls -l).",
        ) from error
    except OSError as error:
        raise InputError(f"{quoted(path)} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise InputError(
            f"{quoted(path)} is not a path: it contains a null character.", hint="Check the path."
        ) from error


def missing(path: Path) -> InputError:
    """Return the error for a path that does not exist, naming the nearest one that does."""
    if path.is_symlink():
        return InputError(
            f"{quoted(path)} is a symbolic link whose target does not exist.",
            hint="Name the target itself, or copy it again.",
        )
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        path, parent = parent, parent.parent
    if not parent.is_dir():
        return InputError(
            f"{quoted(path)} does not exist: {quoted(parent)} is a file, not a directory.", hint="Check the path."
        )
    names = sorted(names_in(parent))
    where = "the current directory" if str(parent) == "." else f"directory {quoted(parent)}"
    near = nearest(path.name, names).removesuffix(".")
    hint = f"{near} (in {where})." if names else f"There is nothing in {where}."
    return InputError(f"{quoted(path)} does not exist.", hint=hint, details=names)


def is_pattern(name: str) -> bool:
    """Return whether a name may stand for several files, as patterns of a shell do."""
    return bool(set("*?[") & set(name))


def matching(pattern: str) -> list[Path]:
    """Return the paths that a pattern stands for, sorted; none for what is no pattern at all."""
    path = Path(pattern)
    try:
        return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except ValueError:  # `a**b`
        return []
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return []


def names_in(directory: Path) -> list[str]:
    """Return the names of what a directory holds."""
    with input_errors_about(directory):
        return [entry.name for entry in directory.iterdir()]
