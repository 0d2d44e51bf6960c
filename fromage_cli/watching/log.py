"""The log: a JSON line for each diagnosis, appended whole or not at all. What is in it is not done again.

One watcher holds the lock beside it. A line that was cut off when its writer was killed is dropped.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fromage_cli import stopping
from fromage_cli.errors import InputError
from fromage_cli.terminal.envelope import FAILURES, WARNINGS, dumps
from fromage_cli.terminal.words import visible

FIRST_KEY = "watched_at"
"""What every line of such a log begins with."""
_OPENING = f'{{"{FIRST_KEY}": '.encode()
VERDICTS_ALONE = (0, WARNINGS, FAILURES)
"""Exit codes of a checkpoint that was judged in full."""
_TAIL = 1 << 16
"""Bytes read at a time from the end, in search of the last line break."""


class WatchLog:
    """What has been diagnosed, in a file that only this process writes; lines of other runs stay and do not count."""

    def __init__(self, path: Path, directory: Path, say: Callable[[str], None]) -> None:
        """Lock the log and read what it holds of the run in a directory.

        Raises InputError where another process holds it, or it is no such log.
        """
        self.path = path.absolute()
        self._run = directory.resolve()
        self.contents: set[str] = set()
        """Hashes of what was diagnosed."""
        self.states: set[str] = set()
        """States of files that hold such content, which need not be read again."""
        self.highest_step = -1  # before any
        self.verdicts: dict[str, int] = {}
        """How often each came; `none` where a checkpoint could not be judged."""
        self.first_error = 0
        """Exit code of the first one that could not be judged, or not in full."""
        self._lock = _lock(self.path, say)
        try:
            self._read(say)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another one write."""
        os.close(self._lock)

    def append(self, record: Mapping[str, object]) -> OSError | None:
        """Write a line and let it reach the disk; where that fails nothing of it stays, and the reason is returned."""
        line = dumps(record, indent=None).encode()
        with stopping.undisturbed():
            try:
                with _opened(self.path) as file:
                    size = _drop_torn_line(file)
                    try:
                        _write(file, line)
                        os.fsync(file)
                    except OSError:
                        os.ftruncate(file, size)
                        raise
            except OSError as error:
                return error
        self._remember(record)
        return None

    def _read(self, say: Callable[[str], None]) -> None:
        try:
            with _opened(self.path) as file:
                with os.fdopen(os.dup(file), "rb") as stream:
                    head = stream.read(len(_OPENING))
                if not _OPENING.startswith(head):
                    raise InputError(
                        f"{visible(str(self.path))} is no log of watch, and nothing is appended to it.",
                        hint="Give another name with --log FILE.",
                    )
                if os.fstat(file).st_size > _drop_torn_line(file):
                    say(f"note: dropped the last line of {visible(self.path.name)}, which was cut off")
            with self.path.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    try:
                        record = json.loads(line)
                        if Path(record["path"]).is_relative_to(self._run):
                            self._remember(record)
                    except (ValueError, TypeError, KeyError, RecursionError):
                        say(f"note: line {number} of {visible(self.path.name)} is damaged and left out")
        except OSError as error:
            raise InputError(
                f"Cannot write {visible(str(self.path))}: {error.strerror}.", hint="Choose another place with --log."
            ) from error

    def _remember(self, record: Mapping[str, object]) -> None:
        content, state, step = (record.get(key) for key in ("content", "state", "step"))
        self.contents.add(str(content))
        self.states.add(str(state))
        if isinstance(step, int):
            self.highest_step = max(step, self.highest_step)
        verdict = verdict_in(record)
        self.verdicts[verdict or "none"] = self.verdicts.get(verdict or "none", 0) + 1
        code = record.get("exit_code")
        if isinstance(code, int) and code not in VERDICTS_ALONE:
            self.first_error = self.first_error or code


def verdict_in(record: Mapping[str, object]) -> str | None:
    """Return `go`, `look` or `stop`; None where a checkpoint could not be judged."""
    result = record.get("result")
    verdict = result.get("verdict") if isinstance(result, Mapping) else None
    return verdict if isinstance(verdict, str) else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open the log for reading and appending, made where it is not there: it may have been moved away meanwhile."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _drop_torn_line(file: int) -> int:
    """Cut the file off behind its last line break; returns its size then."""
    size = end = os.fstat(file).st_size
    while end:
        begin = max(0, end - _TAIL)
        block = os.pread(file, end - begin, begin)
        if (at := block.rfind(b"\n")) >= 0:
            end = begin + at + 1
            break
        end = begin
    if end < size:
        os.ftruncate(file, end)
    return end


def _write(file: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(file, rest) :]


def _lock(log: Path, say: Callable[[str], None]) -> int:
    """Lock the file beside the log until it is closed or the process ends; it says who holds it."""
    path = log.with_name(f"{log.name}.lock")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(
            f"Cannot write {visible(str(path))}: {error.strerror}.", hint="Choose another place with --log FILE."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 200, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(file)
        raise InputError(
            f"{visible(str(log))} is being written by {visible(holder)}.",
            hint="Let that one watch, or end it. Another run takes another --log FILE.",
        ) from None
    except OSError as error:
        say(f"note: {visible(str(path))} cannot be locked ({error.strerror}): start no second watch on this log")
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return file
