"""The two streams: how wide they are, what they can write, and what happens when nobody reads them any more."""

import atexit
import codecs
import contextlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import TextIO

from fromage_cli import ranks
from fromage_cli.errors import InputError
from fromage_cli.terminal import session
from fromage_cli.terminal.words import ASCII_ERRORS

DEFAULT_WIDTH = 80


class ClosedPipe(BaseException):
    """The reader of our output has gone: there is nobody left to tell."""


_ANSWERS: list[TextIO | None] = []
"""Where the answer of the running program goes."""
_DUPLICATES: dict[TextIO, TextIO] = {}
"""By the stream that they stand in for."""


def answer() -> TextIO | None:
    """The stream that the answer goes to: standard output, or what stands in for it while the user's code may run."""
    return _ANSWERS[-1] if _ANSWERS else sys.stdout


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Remember where the answer goes, whatever becomes of `sys.stdout` within."""
    _ANSWERS.append(_DUPLICATES.get(sys.stdout, sys.stdout))
    try:
        yield
    finally:
        _ANSWERS.pop()


def guard_answer() -> None:
    """For the rest of the process descriptor 1 is standard error, and the answer goes to a duplicate.

    So whatever the user's code writes there goes where notes go. It may write in a thread, in a child process or when
    Python ends. Nothing changes where `sys.stdout` is not descriptor 1.
    """
    stream = answer()
    try:
        descriptor = stream.fileno() if stream is not None else 1
    except (AttributeError, OSError, ValueError):
        return
    if descriptor != 1:
        return
    if stream is not None:
        stream.flush()
        duplicate = os.fdopen(os.dup(1), "w", encoding=stream.encoding, errors=stream.errors)
        atexit.register(duplicate.close)
        _ANSWERS[-1] = _DUPLICATES[stream] = duplicate
    try:
        os.dup2(2, 1)
    except OSError:  # standard error is closed
        abandon_descriptor(1)


def make_safe(stream: TextIO | None) -> None:
    """From now on, a character that the stream or the locale lacks is spelled in ASCII instead of failing."""
    if isinstance(stream, io.TextIOWrapper):
        encoding = "ascii" if plain_locale(os.environ) else stream.encoding
        stream.reconfigure(encoding=encoding, errors=ASCII_ERRORS)


def plain_locale(environment: Mapping[str, str]) -> bool:
    """Whether the person asked for the locale C or POSIX, which Python silently makes C.UTF-8.

    An encoding given to Python itself wins; with no locale at all nobody asked for anything.
    """
    if environment.get("PYTHONIOENCODING") or environment.get("PYTHONUTF8") == "1":
        return False
    plain = ("C", "POSIX")
    if environment.get("LC_ALL"):
        return environment["LC_ALL"] in plain
    coerced = environment.get("LC_CTYPE", "") in ("", "C.UTF-8", "C.utf8", "UTF-8", *plain)
    return coerced and (environment.get("LANG") in plain or environment.get("LC_CTYPE") in plain)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads the stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def ascii_only(stream: TextIO | None) -> bool:
    """Whether the stream cannot write the characters of Unicode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return not codecs.lookup(encoding).name.startswith("utf")
    except LookupError:
        return True


def width(stream: TextIO | None) -> int:
    """`COLUMNS` where it is set, else the terminal's width, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if stream is not None and is_terminal(stream):
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    return DEFAULT_WIDTH


def write(stream: TextIO | None, text: str) -> None:
    """Write and flush; raises ClosedPipe when the reader has gone and InputError when the stream cannot take it."""
    name = "standard error" if stream is sys.stderr else "standard output"
    if stream is None or stream.closed:
        raise InputError(f"{name} is closed.", hint="Write to a file with -o FILE.")
    try:
        _write_whole(stream, text)
    except BrokenPipeError as error:
        raise ClosedPipe from error
    except UnicodeEncodeError:
        write(stream, text.encode("ascii", ASCII_ERRORS).decode("ascii"))
    except OSError as error:
        abandon(stream)
        raise InputError(f"Cannot write to {name}: {error.strerror}.", hint="Write elsewhere with -o FILE.") from error


def _write_whole(stream: TextIO, text: str) -> None:
    """Write all of a text, also where Python runs unbuffered and a stream takes less than it is given."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None) or getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        stream.write(text)
        stream.flush()
        return
    stream.flush()
    newline = text if os.linesep == "\n" else text.replace("\n", os.linesep)
    data = memoryview(newline.encode(stream.encoding, stream.errors or "strict"))
    while data:
        written = raw.write(data)
        data = data[written or 0 :]


def say(text: str) -> None:
    """One or more lines for the person, on standard error; silently nothing where that is closed.

    A terminal gets them broken between words, a file or a pipe as they are. None is a command to GitHub's runner. Of
    several ranks the first alone speaks.
    """
    if sys.stderr is not None and not sys.stderr.closed and ranks.current().leads:
        if is_terminal(sys.stderr):
            text = "\n".join(broken(line, width(sys.stderr)) for line in text.split("\n"))
        if os.environ.get("GITHUB_ACTIONS") or session.current().output.format == "github":
            text = without_commands(text)
        with contextlib.suppress(InputError):
            write(sys.stderr, text + "\n")


def without_commands(text: str) -> str:
    """The text with a blank in what GitHub's runner takes for a command: `##[` anywhere, and `::` that begins a line.

    Source: TryParse and TryParseV2 in src/Runner.Common/ActionCommand.cs of github.com/actions/runner.
    """
    return re.sub(r"(?m)#(?=#\[)|^\s*:(?=:)", r"\g<0> ", text)


def broken(line: str, columns: int) -> str:
    """A line broken between words, what follows indented below its text; names and paths stay whole."""
    indent = " " * (len(line) - len(line.lstrip()) + 6)
    pieces = textwrap.wrap(
        line,
        max(columns, 2 * len(indent)),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
    return "\n".join(pieces) if len(line) > columns else line


def raise_closed_pipe(exit: SystemExit) -> None:
    """Raise ClosedPipe where rich met one while it printed, which it tells by an exit."""
    if isinstance(exit.__context__, BrokenPipeError):
        raise ClosedPipe from exit


def flush(stream: TextIO | None) -> None:
    """Write out what a library left in the stream's buffer."""
    if stream is not None and not stream.closed:
        write(stream, "")


def abandon(*streams: TextIO | None) -> None:
    """Point the streams at nothing, so that the interpreter's last flush cannot fail either."""
    for stream in streams:
        if stream is None:
            continue
        with contextlib.suppress(OSError, ValueError, AttributeError):
            abandon_descriptor(stream.fileno())


def abandon_descriptor(descriptor: int) -> None:
    """Point a descriptor at nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
