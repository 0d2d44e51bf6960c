"""An exception as the person and the script see it: one message, one envelope, one exit code."""

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

import typer

from fromage_cli import ranks, stopping
from fromage_cli.errors import FromageError, InputError, ResourceError, UsageError, words_of
from fromage_cli.ranks import LAUNCHED, RankLost
from fromage_cli.stopping import Interruption
from fromage_cli.terminal import parsing, session, streams
from fromage_cli.terminal.documents import DOCUMENTS, document
from fromage_cli.terminal.github import append_summary
from fromage_cli.terminal.output import EXTENSIONS, write_file
from fromage_cli.terminal.words import nearest, visible

MOST_LINES = 6
LONGEST_LINE = 1000
"""Characters; names from files may have any length."""
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory")


_PLAINER = {
    r"^input should be a valid number.*": "expected a number, such as 0.001",
    r"^input should be a valid integer.*": "expected a whole number, such as 10",
    r"^input should be greater than or equal to": "expected at least",
}
"""Complaints of typer's, and the same in plainer words."""


class Bug(FromageError):
    """Anything we did not foresee."""


class Terminated(FromageError):
    """The system asked the process to end."""

    exit_code = 143
    code = "terminated"


def understood(error: BaseException) -> FromageError:
    """The error in our own family; an exception nobody foresaw is a bug."""
    if isinstance(error, FromageError):
        return error
    if callable(getattr(error, "format_message", None)):
        return _usage(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort | stopping.Terminated):
        return Terminated("terminated.") if isinstance(error, stopping.Terminated) else Interruption("interrupted.")
    words = words_of(error).lower()
    lacking = isinstance(error, RuntimeError) and any(phrase in words for phrase in _OUT_OF_MEMORY)
    if lacking or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError("Out of memory.", hint="Use a smaller --batch, --micro-batch N, or another --device.")
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        path = "" if error.filename is None else f"{visible(str(error.filename))}: "
        return InputError(f"{path}{error.strerror}.", hint="Check that path and the space left there.")
    first_line = visible(words_of(error).strip()).split(r"\n")[0]
    return Bug(
        f"This is a bug in fromage-diag: {type(error).__name__}: {first_line[:200]}",
        hint="Please report it. --debug shows the traceback.",
    )


def _usage(error: BaseException) -> UsageError:
    """A complaint of typer's about the command line, in our shape and with the nearest names."""
    context: Any = getattr(error, "ctx", None)
    command: Any = getattr(context, "command", None)
    program = context.command_path if context is not None else "fromage-diag"
    hint = f"{program} --help lists what there is."
    if type(error).__name__ != "NoSuchOption":
        name = "Name a file or a directory. " if _sentence(error).startswith("CKPT") else ""
        return UsageError(_sentence(error), hint=name + nearest_choice(error) + hint)
    typed = str(getattr(error, "option_name", "")).partition("=")[0]
    if below := _having(command, typed):
        return UsageError(
            f"{visible(typed)} stands before the command.",
            hint=f"Put it after the command: fromage-diag {below[0]} CKPT {visible(typed)}",
        )
    parameters = command.get_params(context) if command is not None else []
    known = [name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)]
    near = get_close_matches(typed, known, n=3, cutoff=0.5)
    others = _having(getattr(getattr(context, "parent", None), "command", None), typed)
    if others:
        hint = f"{others[0]} has it. {hint}" if len(others) == 1 else f"Other commands have it. {hint}"
    elif near:
        hint = f"Did you mean {' or '.join(near)}? {hint}"
    return UsageError(f"There is no option {visible(typed)}.", hint=hint)


def _having(group: Any, option: str) -> list[str]:
    """The commands of a group that have an option."""
    commands = [group.command(name) for name in getattr(group, "commands", ())]
    return [one.name for one in commands if any(option in parameter.opts for parameter in one.params)]


def _sentence(error: BaseException) -> str:
    """Typer's complaint with the option or argument that it is about, where it is about one."""
    parameter = getattr(error, "param", None)
    message = complaint(error)
    if parameter is None:
        return " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar
    if type(error).__name__ == "MissingParameter":
        return f"{name or parameter.name} is missing. {message}".strip()
    return f"{name or parameter.name}: {visible(message).rstrip('.')}."


def complaint(error: BaseException) -> str:
    """Typer's words about a value, on one line, with the value itself."""
    message = " ".join(str(getattr(error, "message", "") or "").split()).removeprefix("Value error, ")
    for theirs, ours in _PLAINER.items():
        message = re.sub(theirs, ours, message, flags=re.IGNORECASE)
    errors = getattr(error.__cause__, "errors", None)
    value = repr(errors()[0]["input"]) if callable(errors) else ""
    return message if value in message else f"{value}: {message[:1].lower()}{message[1:]}"


def nearest_choice(error: BaseException) -> str:
    """The choice nearest to what was given for an option with choices, as the beginning of a hint; else nothing."""
    choices = getattr(getattr(getattr(error, "param", None), "type_descriptor", None), "choices", None)
    errors = getattr(error.__cause__, "errors", None)
    return nearest(str(errors()[0]["input"]), choices) if choices and callable(errors) else ""


def message_lines(error: FromageError, verbose: bool) -> list[str]:
    """The message, at most six lines; the details only with `verbose`, else their number."""
    lines = [f"error: {line}" if index == 0 else f"  {line}" for index, line in enumerate(_lines(error.message))]
    ending = [f"hint: {line}" if index == 0 else f"  {line}" for index, line in enumerate(_lines(error.hint))]
    if error.details and verbose:
        return [*lines, *(f"  {visible(detail)}" for detail in error.details), *ending]
    shown = _shortened(lines, ending)
    # a name counts as said where it is no part of a longer one
    words = [rf"(?<![\w./-]){re.escape(visible(detail))}(?![\w/-]|\.\w)" for detail in error.details]
    if len(words) < 2 or all(re.search(word, " ".join(shown)) for word in words):
        return shown
    listing = f"(-v lists all {len(words)})"
    return _shortened(lines, [*ending[:-1], f"{ending[-1]} {listing}" if ending else f"  {listing}"])


def _shortened(lines: list[str], ending: list[str]) -> list[str]:
    """At most MOST_LINES of them: the ending, and before it as many as there is room for."""
    room = max(MOST_LINES - len(ending), 1)
    return [*lines[:room], *ending][:MOST_LINES]


_LONG_WORD = re.compile(r"(\S{120})\S{60,}(\S{120})")
"""A path so long that nobody reads it; JSON has it whole."""


def _lines(text: str) -> list[str]:
    lines = (_LONG_WORD.sub(r"\1…\2", visible(line)) for line in text.splitlines())
    return [line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…" for line in lines]


@dataclass(frozen=True)
class Asked:
    """What the arguments ask of a message."""

    document: str | None
    """The format where a program reads the answer and its errors: `json`, `github` …"""
    output: Path | None
    """The file that the answer goes to; None is standard output."""
    verbose: bool
    debug: bool


def asked(args: Sequence[str], environment: Mapping[str, str] | None = None) -> Asked:
    """What the running session knows of it; before there is one, what the arguments look like."""
    environment = os.environ if environment is None else environment
    words = list(args[: list(args).index("--")]) if "--" in args else list(args)
    running = session.current()
    output = _value(words, "--output") or _value(words, "-o") or ""
    format = _value(words, "--format") or environment.get("FROMAGE_DIAG_FORMAT") or "auto"
    format = format.lower()
    if format == "auto":
        format = EXTENSIONS.get(PurePath(output).suffix.lower(), "auto")
    file = parsing.answer_file(output) if output.strip() else None
    kind = "json" if "--json" in words else format if format in DOCUMENTS else None
    if running.destination is not None and running.destination.document:
        kind = running.destination.format
    short = "".join(word[1:] for word in words if word[:1] == "-" and word[1:].isalpha())
    return Asked(
        document=kind,
        output=running.destination.path if running.destination is not None else file,
        verbose=running.output.verbose or "--verbose" in words or "v" in short,
        debug=running.output.debug or "--debug" in words,
    )


def _value(words: Sequence[str], option: str) -> str | None:
    """The last value given to the option, as the next word or joined to it."""
    joined = option if len(option) == 2 else option + "="
    found = None
    for index, word in enumerate(words):
        if word == option and index + 1 < len(words):
            found = words[index + 1]
        elif word.startswith(joined) and word != option:
            found = word.removeprefix(joined).removeprefix("=")
    return found


def report(error: BaseException, args: Sequence[str]) -> int:
    """Say the error on standard error, and as a document where the answer goes if one is asked for; its exit code.

    A document that has been delivered already, with a partial answer, holds the error and is not written again. A file
    that exists is left as it is, and standard output gets the document. But what CI and Prometheus read tells of the
    last call: with `--force` it replaces the file of the one before. What became of ranks their launcher says.
    """
    failure, wanted, running = understood(error), asked(args), session.current()
    lost = isinstance(failure, Terminated) or (isinstance(failure, RankLost) and not failure.left_word)
    if lost and LAUNCHED in os.environ and "RANK" in os.environ:  # the launcher itself has no rank
        return failure.exit_code
    if LAUNCHED in os.environ and "RANK" in os.environ and ranks.current().leads:
        with contextlib.suppress(OSError):
            Path(os.environ[LAUNCHED]).touch()
    text = "\n".join(message_lines(failure, wanted.verbose))
    if wanted.debug:
        text = "".join(traceback.format_exception(error)).rstrip() + f"\n{text}"
    streams.say(streams.without_commands(text) if wanted.document == "github" else text)
    if wanted.document is None or running.delivered or not ranks.current().leads:
        return failure.exit_code
    text = document(wanted.document, [failure], running.circumstances)
    if wanted.document == "github":
        append_summary([failure], running.circumstances)
    renewed = wanted.document in ("junit", "prom") and running.destination is not None and running.destination.force
    with contextlib.suppress(FromageError):
        if wanted.output is not None:
            write_file(wanted.output, text, force=renewed)
            return failure.exit_code
    with contextlib.suppress(InputError):
        streams.write(streams.answer(), text)
    return failure.exit_code
