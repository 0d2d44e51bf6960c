"""Code that the user named, `pkg.module:name` or `path/file.py:name`: imported and run, its failures explained."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fromage_cli.errors import FromageError, InputError, MismatchError, ResourceError, UnsafeError, UsageError

FORMS = "pkg.module:name or path/file.py:name"
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_OWN_FOLDERS = (str(Path(__file__).resolve().parents[1]), str(Path(torch.__file__).parent), "<frozen")


@dataclass(frozen=True)
class Specification:
    """A module, or a file that is loaded as one, and the dotted name inside it."""

    text: str
    module: str
    """`pkg.module`, or the path of the file as the user wrote it."""
    name: str

    @property
    def is_file(self) -> bool:
        """Whether the code stands in a file that is named by its path."""
        return self.module.endswith(".py")


def parse_specification(text: str) -> Specification | None:
    """Take `pkg.module:name` or `path/file.py:name` apart; None when the text has neither form."""
    module, colon, name = text.rpartition(":")
    if not colon or not _DOTTED.fullmatch(name):
        return None
    if module.endswith(".py") or _DOTTED.fullmatch(module):
        return Specification(text, module, name)
    return None


def load_named(text: str, flag: str, *, allow_code: bool = True) -> Any:
    """Import the code that a flag names and return the object.

    The folder of a file joins the import path at its front, as for a script; the working directory joins it at
    its end for `pkg.module:name`, so that nothing lying there hides an installed package. A file is loaded once.

    Raises UsageError (neither form), UnsafeError (no code allowed here), InputError (no such file, module or
    name) and MismatchError (the user's code failed while it was imported).
    """
    specification = parse_specification(text)
    if specification is None:
        raise UsageError(f"{flag} {text!r} names no code; expected {FORMS}.", _colon_hint(text))
    if not allow_code:
        raise UnsafeError(
            f"{flag} {text!r} would run code that you have not named yourself.",
            f"Give it on the command line as {flag} {text}, or pass --trust.",
        )
    module = _load_file(specification) if specification.is_file else _load_module(specification)
    return _attribute(module, specification, flag)


def _colon_hint(text: str) -> str:
    return f"Say which function: {text}:NAME." if text.endswith(".py") else ""


def _load_file(specification: Specification) -> ModuleType:
    path = Path(specification.module).expanduser()
    if not path.is_file():
        raise InputError(
            f"No file {specification.module!r} (from {specification.text!r}, working directory {Path.cwd()}).",
            "Give the path relative to the working directory, or an absolute one.",
        )
    path = path.resolve()
    name = f"fromage_named_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None and description.loader is not None  # always found for a .py file
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module
    try:
        with named_code(f"importing {specification.module}"):
            description.loader.exec_module(module)
    except FromageError:
        del sys.modules[name]
        raise
    return module


def _load_module(specification: Specification) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        with named_code(f"importing {specification.module}", passing=(ModuleNotFoundError,)):
            return importlib.import_module(specification.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if specification.module == missing or specification.module.startswith(f"{missing}."):
            raise InputError(
                f"No module {missing!r} (from {specification.text!r}).",
                f"Install it, run from the folder that holds it, or name the file: path/file.py:{specification.name}.",
            ) from error
        raise _explained(error, f"importing {specification.module}") from error


def _attribute(module: ModuleType, specification: Specification, flag: str) -> Any:
    found: Any = module
    for part in specification.name.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("__")]
            near = difflib.get_close_matches(part, names, 3, 0.5)
            hint = f"Nearest names: {', '.join(near)}." if near else "It has no similar name."
            raise InputError(f"{flag}: {specification.module} has no {specification.name!r}.", hint, sorted(names))
        found = getattr(found, part)
    return found


@contextmanager
def named_code(doing: str, *, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Run the user's code: what it prints goes to stderr, what it raises becomes one MismatchError without a traceback.

    `doing` completes "ValueError while …". Memory that ran out is a ResourceError; `passing` goes through as it is.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (FromageError, *passing)):
            raise
        raise _explained(error, doing) from error


def _explained(error: BaseException, doing: str) -> FromageError:
    place = _place(error)
    text = first_line(error)
    if out_of_memory(error):
        return ResourceError(f"Out of memory while {doing}: {text}", "Use a smaller batch, or --micro-batch N.")
    return MismatchError(f"{type(error).__name__} while {doing}{place}: {text}", "--debug shows the traceback.")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the processor or on an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not empty."""
    if isinstance(error, SyntaxError):
        return error.msg
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _place(error: BaseException) -> str:
    """` (file:line)` of the innermost frame that is neither torch's nor ours."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OWN_FOLDERS)]
    outside = [frame for frame in own if Path(frame.filename).name != "contextlib.py"]
    return f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""


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
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        label = getattr(function, "__name__", str(function))
        raise MismatchError(f"{flag}: {error}; the signature is {label}{signature}.", _argument_hint(flag)) from error


def _argument_hint(flag: str) -> str:
    return "Pass arguments with --model-arg NAME=VALUE, one for each." if flag == "--model" else ""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and random for a while, and put their states back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
