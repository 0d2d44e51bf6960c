"""The project's own file: `[tool.fromage-diag]` in pyproject.toml or fromage.toml, nearest upwards.

A file in the checkpoint's own directory or below it is never the project's: it is data beside the checkpoint,
whoever stands in that directory. So the checkpoints must be known before the configuration is.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.storage.files import matching
from fromage_cli.checkpoints.storage.remote import is_url, local_path
from fromage_cli.configuration_file import FILES, SECTION, read_configuration
from fromage_cli.errors import UsageError
from fromage_cli.terminal.words import visible


@dataclass(frozen=True)
class ProjectConfiguration:
    """The project's own configuration: written by the user, so code named in it may run."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By flag name with hyphens; sub-tables of commands stand under the command's name."""
    source: Path | None = None
    skipped: tuple[Path, ...] = ()
    """Nearer configuration files that lie beside a checkpoint and therefore are data only."""


def find_project(working_directory: Path, checkpoint_paths: Iterable[str | Path] = ()) -> ProjectConfiguration:
    """The project's configuration: of the files from the working directory upwards the nearest not beside a checkpoint.

    Raises UsageError where that file is not what it should be.
    """
    data_directories = [directory for path in checkpoint_paths for directory in _directories_of(path)]
    skipped: list[Path] = []
    for directory in (working_directory.absolute(), *working_directory.absolute().parents):
        for path in (directory / name for name in FILES):
            if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file() raises where a directory is closed to us
                continue
            if _inside(path, data_directories):
                skipped.append(path)
            elif (values := project_values(path)) is not None:
                return ProjectConfiguration(values, path, tuple(skipped))
    return ProjectConfiguration(skipped=tuple(skipped))


def is_beside(path: Path, checkpoint_paths: Iterable[str | Path]) -> bool:
    """Whether a configuration file lies in the directory of one of the checkpoints, or below it."""
    return _inside(path.absolute(), [directory for place in checkpoint_paths for directory in _directories_of(place)])


def _directories_of(checkpoint: str | Path) -> list[Path]:
    """The directories a checkpoint lies in, or is: as it is named, and where its links lead.

    A pattern has those of every match, the URL of a local file those of the file; `~` may stand for the home directory.
    """
    name = str(checkpoint).removeprefix("local://")  # fsspec's other scheme for local files
    path = local_path(name) if is_url(name) else Path(name)
    if path is None:
        return []
    named = {str(path), os.path.expanduser(path)}  # noqa: PTH111 - Path.expanduser() raises where there is no home
    found = [match for one in named for match in ([Path(one)] if os.path.lexists(one) else matching(one))]
    places = [(match, place(match)) for match in found for place in (os.path.abspath, os.path.realpath)]
    return list({Path(place if match.is_dir() else os.path.realpath(Path(place).parent)) for match, place in places})


def _inside(path: Path, directories: Sequence[Path]) -> bool:
    parents = {*path.parents, *path.resolve().parents, path.parent.resolve()}
    return any(directory in parents or directory.resolve() in parents for directory in directories)


def project_values(path: Path) -> Mapping[str, Any] | None:
    """The project's keys; None where a pyproject.toml has no `[tool.fromage-diag]`."""
    try:
        table = read_configuration(path)
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read: {error.strerror}.", hint="Correct its permissions.") from error
    if table is not None and table.outside:
        keys = ", ".join(map(visible, table.outside))
        raise UsageError(f"In {shown(path)} {keys} must stand in [tool.{SECTION}], as it is there.", "Move it there.")
    return table.values if table is not None else None


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
