"""Running the user's code: prints on stderr, random numbers from a seed, exceptions explained in one message."""

import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch

from fromage_cli import stopping
from fromage_cli.errors import FromageError, MismatchError, OutOfMemory, words_of
from fromage_cli.problem.user_code.generators import Generators, seed_all

_NOT_THEIRS = (
    str(Path(__file__).resolve().parents[1]),
    str(Path(torch.__file__).parent),
    str(Path(importlib.__file__).parent),
    contextlib.__file__,
    "<frozen",
)
"""Files whose lines say nothing to the user: ours, torch's and the import machinery."""

_OURS = (FromageError, KeyboardInterrupt, stopping.Terminated, GeneratorExit)


_FIRST: list[str] = []
"""Folders of the files that were named: they stand first on the import path while the user's code runs."""
_LAST: list[str] = []
"""The working directory where a module was named: it stands last, so that it hides no installed package."""


def find_imports_in(folder: Path, *, first: bool) -> None:
    """From now on the user's code alone also finds its imports in this folder, first or last of all.

    It is not on the import path all the time. A file beside the checkpoint could otherwise take the place of an
    installed library that we or torch import.
    """
    folders = _FIRST if first else _LAST
    if str(folder) not in folders:
        folders.append(str(folder))


class named_code:
    """Run the user's code: what it prints goes to stderr, what it raises becomes one MismatchError without a traceback.

    Meanwhile it finds what it imports in its own folders. `doing` completes "ValueError while …". Memory that ran out
    is an OutOfMemory; `passing` goes through as it is. A reason to stop interrupts the code and is raised afterwards,
    whatever the code made of it.
    """

    __slots__ = ("_added", "_doing", "_inside", "_passing", "_recursion", "_redirect")

    def __init__(self, doing: str, *, passing: tuple[type[BaseException], ...] = ()) -> None:
        self._doing, self._passing = doing, passing
        self._redirect = redirect_stdout(sys.stderr)

    def __enter__(self) -> None:
        stopping.raise_reason()
        self._recursion = sys.getrecursionlimit()
        self._redirect.__enter__()
        first, last = ([folder for folder in folders if folder not in sys.path] for folders in (_FIRST, _LAST))
        sys.path[:] = [*reversed(first), *sys.path, *last]
        self._added = (*first, *last)
        self._inside = stopping.in_their_code(True)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        sys.setrecursionlimit(max(self._recursion, sys.getrecursionlimit()))  # first: there may be no room for calls
        stopping.in_their_code(self._inside)
        self._redirect.__exit__(None, None, None)
        for folder in self._added:
            with suppress(ValueError):  # their code may have taken it away
                sys.path.remove(folder)
        stopping.raise_reason()
        if error is not None and not isinstance(error, (*_OURS, *self._passing)):
            raise error_of_user_code(error, self._doing) from error


def error_of_user_code(error: BaseException, doing: str) -> FromageError:
    """The one error that the user sees for an exception from their own code."""
    text, place = first_line(error), ""
    if out_of_memory(error):
        return OutOfMemory(f"Out of memory while {doing}: {text}", "Use a smaller batch, or give --micro-batch N.")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}:{error.lineno})"
    elif theirs:
        place = f" ({theirs[-1].filename}:{theirs[-1].lineno})"
    return MismatchError(
        f"{type(error).__name__} while {doing}{place}: {text}",
        hint_for(error, "Mend that code. --debug shows the traceback."),
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the processor or on an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory) or (
        isinstance(error, RuntimeError) and "allocate memory" in words_of(error)
    )


def one_row_does_not_fit(error: BaseException) -> OutOfMemory:
    """The error that the user sees where no split of the rows helps any more."""
    return OutOfMemory(
        "Out of memory: one row alone does not fit.",
        "Use shorter rows, or another --device. -v shows what could not be allocated.",
        [first_line(error)],
    )


def hint_for(error: BaseException, otherwise: str) -> str:
    """What to do about an exception: its own remedy where torch's words tell it, else another."""
    if "more than 1 value per channel" in words_of(error):
        return "BatchNorm normalises over the rows of the batch. Give more than one row, or --mode eval."
    return otherwise


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not empty."""
    if isinstance(error, SyntaxError):
        return error.msg
    return next((line.strip() for line in words_of(error).splitlines() if line.strip()), "no message")


def raised_here(error: BaseException) -> bool:
    """Whether the innermost frame of an exception is ours."""
    return traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_NOT_THEIRS[0])


def check_arguments(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any], flag: str
) -> None:
    """Refuse arguments that the user's function does not take, with its signature.

    Raises MismatchError before the call, so that a TypeError from inside the function is not taken for one of these.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:  # a misspelt name would be reported as another one that is missing
        unknown = next((name for name in named if name not in signature.parameters and not takes_any), None)
        reason = f"got an unexpected argument {unknown!r}" if unknown else str(error)
        label = getattr(function, "__name__", str(function))
        hint = "" if flag != "--model" else "Give each argument as --model-arg NAME=VALUE."
        if hint and not unknown:  # it may take an object, which no option can spell
            build = f"Write build() that returns {label}(…), and give --model file.py:build.\n"
            hint = f"{build}Plain numbers and texts can be given as --model-arg NAME=VALUE."
        raise MismatchError(f"{flag}: {reason}; the signature is {label}{signature}.", hint) from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and random for a while, and put their states back afterwards."""
    generators = Generators()
    seed_all(seed)
    torch.manual_seed(seed)  # also for an accelerator that is only begun to be used within
    try:
        yield
    finally:
        generators.restore()
