"""What a project's configuration names runs after one explicit yes, remembered by path and by content.

As direnv does: the user's configuration directory holds one file for each yes. Its name is a hash of the
configuration's path and text, and of the code files that it names.
"""

import hashlib
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import typer

from fromage_cli.errors import InputError, UnsafeError
from fromage_cli.problem.user_code.forms import DATA_FILES, Specification, parse_specification
from fromage_cli.terminal.project import ProjectConfiguration, shown
from fromage_cli.terminal.words import visible

CODE_FLAGS = ("model", "batch", "val-batch", "loss", "val-loss")
"""Flags that may name code."""


def refuse_untrusted(project: ProjectConfiguration, values: Mapping[str, Any]) -> None:
    """Let a configuration set these flags to code only where the user has said yes to its present text.

    The same goes for files that it lets be written outside of its directory, or replaced. Raises UnsafeError.
    """
    source = project.source
    asking = [f"{flag} = {visible(str(value))}" for flag, value in values.items() if _needs_yes(flag, value, source)]
    if source is None or not asking or is_trusted(source, project.values, Path.cwd()):
        return
    known = any(path == _identity(source) for path, _ in remembered())
    changed = "It, or code that it names, is not what you trusted. " if known else ""
    raise UnsafeError(
        f"{shown(source)} would run code, or write a file, that you have not named: {', '.join(asking)}.",
        f"{changed}If you have read it, type this; --trust lifts it for one call.\n"
        f"fromage-diag trust {shlex.quote(shown(source.parent))}",
    )


def _needs_yes(flag: str, value: Any, source: Path | None) -> bool:
    """Whether a flag's value would run code, send numbers, replace a file, or write one outside of its directory."""
    if flag == "mlflow":  # numbers would leave this machine
        return True
    if flag in ("output", "plot", "log", "metrics", "tensorboard") and source is not None:
        place = os.path.realpath(os.path.expanduser(str(value)))  # noqa: PTH111 - the method raises without a home
        return value != "-" and not Path(place).is_relative_to(_identity(source).parent)
    return (flag == "force" and value is True) or code_in(flag, value) is not None


def code_in(flag: str, value: Any) -> Specification | None:
    """The code that a flag's value names; None where it names none."""
    data = flag in ("batch", "val-batch") and Path(str(value)).suffix.lower() in DATA_FILES
    return None if flag not in CODE_FLAGS or data else parse_specification(str(value))


def specifications(values: Mapping[str, Any]) -> list[Specification]:
    """The code that a configuration names, for all commands."""
    tables = [values, *(table for table in values.values() if isinstance(table, Mapping))]
    found = [code_in(flag, value) for table in tables for flag, value in table.items()]
    return [named for named in dict.fromkeys(found) if named is not None]


def code_files(named: Sequence[Specification], directory: Path, working_directory: Path) -> list[Path]:
    """The files that naming this code runs, without those that it imports; nothing is run to find them.

    They are found as an import finds them, whichever of the named files runs before: beside that file, where they are
    installed, in the working directory; else beside the configuration.
    """
    files = [directory / one.path for one in named if one.is_file]
    paths = [[*first, *sys.path, str(working_directory)] for first in ([], *([str(file.parent)] for file in files))]
    modules = [one.module for one in named if not one.is_file]
    found = (file for module in modules for path in paths for file in _module_files(module, path, directory))
    return list(dict.fromkeys((*files, *found)))


def _module_files(module: str, path: Sequence[str], otherwise: Path) -> Iterator[Path]:
    """The file of a module, after those of the packages that hold it."""
    name, *parts = module.split(".")
    found = PathFinder.find_spec(name, path)
    if found is None:
        with suppress(ValueError):  # a module without a specification, such as __main__
            found = importlib.util.find_spec(name)  # whatever else finds what is installed
    found = found or PathFinder.find_spec(name, [str(otherwise)])
    while found is not None:
        if found.origin is not None and found.has_location:
            yield Path(found.origin)
        if not parts:
            return
        found = PathFinder.find_spec(parts.pop(0), found.submodule_search_locations or ())


def fingerprint(source: Path, values: Mapping[str, Any], working_directory: Path) -> str:
    """The hash of a configuration's path and content, and of the paths and contents of the code files it names.

    Of a code file that is not there, only the path counts. Raises OSError where the configuration cannot be read.
    """
    place = _identity(source)
    files = [place, *code_files(specifications(values), place.parent, working_directory)]
    resolved = [Path(os.path.realpath(path)) for path in files]
    contents = [(str(path), _hash(path) if path.is_file() else "") for path in resolved]
    return hashlib.sha256(json.dumps([str(place), *contents]).encode()).hexdigest()


def _identity(source: Path) -> Path:
    """The path by which a configuration is known: its directory without links, beside which its code is looked for."""
    return Path(os.path.realpath(source.parent), source.name)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_trusted(source: Path, values: Mapping[str, Any], working_directory: Path) -> bool:
    """Whether the user has said yes to this configuration, and to the code that it names, as they now stand."""
    return (_memory() / fingerprint(source, values, working_directory)).is_file()


def remembered() -> list[tuple[Path, str]]:
    """Every configuration that the user trusts, with the hash under which it is known, by path."""
    try:
        entries = list(_memory().iterdir())
        return sorted((Path(os.fsdecode(entry.read_bytes())), entry.name) for entry in entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(error) from error


def remember(source: Path, values: Mapping[str, Any]) -> None:
    """From now on this configuration is trusted as it stands, and no longer as it stood.

    Raises InputError where that cannot be written.
    """
    forget(source.parent)
    entry = _memory() / fingerprint(source, values, source.parent)
    try:
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry.write_bytes(os.fsencode(_identity(source)))
    except OSError as error:
        raise _unusable(error) from error


def forget(directory: Path) -> list[Path]:
    """The configurations in a directory that were trusted and from now on are not."""
    forgotten = [(path, name) for path, name in remembered() if path.parent == Path(os.path.realpath(directory))]
    try:
        for _, name in forgotten:
            (_memory() / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(error) from error
    return [path for path, _ in forgotten]


def _memory() -> Path:
    """Where it is remembered; InputError where that is not the user's own place, whichever the working directory."""
    place = Path(typer.get_app_dir("fromage-diag"), "trusted")
    if not place.is_absolute():
        raise InputError(f"{visible(str(place))} is no place of yours alone.", "Set HOME to an absolute path.")
    return place


def _unusable(error: OSError) -> InputError:
    return InputError(
        f"{visible(str(error.filename))}, where you keep what you trust: {error.strerror}.", "Correct its permissions."
    )
