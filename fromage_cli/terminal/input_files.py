"""Which files this run has read: no output goes over one of them, whatever `--force` says."""

import contextlib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fromage_cli.errors import UsageError
from fromage_cli.terminal.words import visible

ENVELOPES, PAGE = (".json", ".jsonl"), ".txt"
TABLES = (".tsv", ".csv", ".md", ".xml", ".prom", ".svg", ".png")
"""What answers and pictures end in."""
HEAD = 30
"""Bytes in which a table tells its columns."""


@dataclass
class _Record:
    """What one run of the program reads."""

    read: set[Path] = field(default_factory=set)
    """Every file that was opened for reading, or whose code was run."""
    named: set[Path] = field(default_factory=set)
    """What the command line names, where it names a path."""


_RUNNING: list[_Record] = []
"""Of the run that is under way."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Remember every file that is opened for reading within, or whose code is run."""
    _hook()
    _RUNNING.append(_Record())
    try:
        yield
    finally:
        _RUNNING.pop()


@cache
def _hook() -> None:
    """Python tells both to audit hooks, which cannot be taken away again."""
    sys.addaudithook(_remember)


def _remember(event: str, arguments: tuple[Any, ...]) -> None:
    if not _RUNNING or event not in ("open", "exec"):
        return
    # where the compiled code of a module is kept beside it, the module itself is not opened
    path = arguments[0] if event == "open" else getattr(arguments[0], "co_filename", None)
    if isinstance(path, str | bytes) and not (event == "open" and arguments[2] & os.O_ACCMODE == os.O_WRONLY):
        with contextlib.suppress(OSError):
            _RUNNING[-1].read.add(Path(os.fsdecode(path)).absolute())  # now: the working directory may change


def name_inputs(words: Iterable[str], patterns: Sequence[str]) -> None:
    """Take words of the command line as inputs of this call where they are paths, with what the patterns match."""
    spelled = {form for word in words for form in (word, word.rpartition(":")[0], word.removeprefix("to:"))}
    for pattern in patterns:
        local = str(Path(pattern.removeprefix("file://")).expanduser())
        spelled.update((local, *glob.iglob(local)))  # noqa: PTH207 - the pattern of a Path may not be absolute
    with contextlib.suppress(OSError):
        _RUNNING[-1].named.update(Path(path).absolute() for path in spelled - {""})


def check_no_input(path: Path, data: bytes | None = None) -> None:
    """Raise UsageError where an existing file is an input of this call, also through a link or under another name.

    What lies in a directory of checkpoints counts too, unless it is a former answer. `data` is what is to be written,
    where it is known.
    """
    if not (_RUNNING and path.exists()):
        return
    name, record = visible(str(path)), _RUNNING[-1]
    if any(_same(path, other) for other in record.named):
        raise UsageError(f"{name} is an input of this call and is not overwritten.", hint="Name another file.")
    read = any(_same(path, other) for other in record.read)
    beside = any(_same(parent, other) for parent in path.resolve().parents for other in record.named)
    if (read or beside) and not _is_answer(path, data, read):
        reason = "this call reads it as an input" if read else "it lies among the inputs of this call"
        raise UsageError(f"{name} is not overwritten: {reason}.", hint="Name another file.")


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def _is_answer(path: Path, data: bytes | None, read: bool) -> bool:
    """Whether a file holds what such a call has written before."""
    suffix = path.suffix.lower()
    if suffix not in (*ENVELOPES, *TABLES, PAGE) or (suffix == PAGE and read):
        return False
    if suffix == PAGE or (suffix in TABLES and data is None):
        return True
    with path.open("rb") as file:
        head = file.read(4 * HEAD)
    return head[:HEAD] == (data or b"")[:HEAD] or re.match(rb'[\[{\s]*"schema": "fromage-diag/', head) is not None
