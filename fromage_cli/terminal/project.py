"""The project's own file: `[tool.fromage-diag]` in pyproject.toml or fromage.toml, nearest upwards.

A file in the checkpoint's own directory or below it is never the project's: it is data beside the checkpoint,
whoever stands in that directory. So the checkpoints must be known before the configuration is.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromage_cli.errors import UsageError
from fromage_cli.terminal.words import visible

FILES = ("fromage.toml", "pyproject.toml")
SECTION = "fromage-diag"


@dataclass(frozen=True)
class ProjectConfiguration:
    """The project's own configuration: written by the user, so code named in it may run."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By flag name with hyphens; sub-tables of commands stand under the command's name."""
    source: Path | None = None
    skipped: tuple[Path, ...] = ()
    """Nearer configuration files that lie beside a checkpoint and therefore are data only."""


def project_configuration(
    working_directory: Path, checkpoint_paths: Iterable[str | Path] = ()
) -> tuple[Mapping[str, Any], Path | None]:
    """The values and the file of the project's configuration: the nearest upwards that is not beside a checkpoint."""
    found = find_project(working_directory, checkpoint_paths)
    return found.values, found.source


def find_project(working_directory: Path, checkpoint_paths: Iterable[str | Path] = ()) -> ProjectConfiguration:
    """As `project_configuration`, and which files were passed over."""
    data_directories = [directory for path in checkpoint_paths for directory in _directories_of(path)]
    skipped: list[Path] = []
    for directory in (working_directory.absolute(), *working_directory.absolute().parents):
        for path in (directory / name for name in FILES):
            if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises where a directory is closed to us
                continue
            if _inside(path, data_directories):
                skipped.append(path)
            elif (values := read_section(path)) is not None:
                return ProjectConfiguration(values, path, tuple(skipped))
    return ProjectConfiguration(skipped=tuple(skipped))


def is_beside(path: Path, checkpoint_paths: Iterable[str | Path]) -> bool:
    """Whether a configuration file lies in the directory of one of the checkpoints, or below it."""
    return _inside(path.absolute(), [directory for place in checkpoint_paths for directory in _directories_of(place)])


def _directories_of(checkpoint: str | Path) -> list[Path]:
    """The directory a checkpoint lies in, or is: as it is named, and where its links lead."""
    if "://" in str(checkpoint):
        return []
    path = Path(checkpoint).absolute()
    if not os.path.lexists(path):
        return []
    places = (Path(os.path.normpath(path)), path.resolve())
    return [place if path.is_dir() else place.parent.resolve() for place in places]


def _inside(path: Path, directories: Sequence[Path]) -> bool:
    parents = {*path.parents, *path.resolve().parents, path.parent.resolve()}
    return any(directory in parents or directory.resolve() in parents for directory in directories)


def read_section(path: Path) -> dict[str, Any] | None:
    """The file's keys with hyphens; None where a pyproject.toml has no `[tool.fromage-diag]`."""
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{shown(path)} is not valid TOML: {error}.", hint="correct that line") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown(path)} is not UTF-8 text.", hint="save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read: {error.strerror}.", hint="check its permissions") from error
    if path.name == "pyproject.toml":
        document = document.get("tool", {}).get(SECTION)
    elif set(document) == {"tool"}:
        document = document["tool"].get(SECTION, {})
    if document is None:
        return None
    if not isinstance(document, dict):
        raise UsageError(f"[tool.{SECTION}] in {shown(path)} is not a table.", hint="write `flag = value` lines")
    return _hyphenated(document)


def _hyphenated(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.replace("_", "-"): _hyphenated(value)
        if isinstance(value, dict) and key.replace("_", "-") != "model-arg"
        else value
        for key, value in section.items()
    }


def shown(path: Path) -> str:
    """The path as a person would type it here."""
    try:
        return visible(str(path.relative_to(Path.cwd())))
    except ValueError:
        return visible(str(path))


def place(source: Path, command: str = "") -> str:
    """The table of the file that holds the flags of a command, or of all: `pyproject.toml [tool.fromage-diag]`."""
    if source.name == "pyproject.toml":
        return f"{shown(source)} [tool.{SECTION}{'.' * bool(command)}{command}]"
    return f"{shown(source)} [{command}]" if command else shown(source)
