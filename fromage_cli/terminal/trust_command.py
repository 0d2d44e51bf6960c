"""`fromage-diag trust`."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.configuration_file import FILES
from fromage_cli.counting import first_names
from fromage_cli.errors import InputError, UsageError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, PageStyle, Table, summary
from fromage_cli.terminal.options import OutputOptions, diagnostic
from fromage_cli.terminal.project import project_values
from fromage_cli.terminal.trust import code_files, forget, is_trusted, remember, remembered, specifications
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    from rich.console import RenderableType


CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors", ".msgpack")
"""Endings of what is hardly ever anything but weights or data."""


@dataclass(frozen=True)
class TrustedConfiguration:
    """A configuration that the user has said yes to."""

    path: str
    code: tuple[str, ...]
    """What it names, as it stands there."""
    files: tuple[str, ...]
    """The code files that were looked at beside it."""
    unchanged: bool
    """Whether all of this is what it was then; else it takes another yes."""
    beside: tuple[str, ...] = ()
    """Names of checkpoints in its own directory, for which it is data: there the yes does not hold."""


@dataclass(frozen=True)
class Trust:
    """What runs without being named on the command line."""

    trusted: tuple[TrustedConfiguration, ...]
    removed: tuple[str, ...] = ()
    """Paths of configurations that from now on are trusted no more."""


@diagnostic(tables=("trusted", "summary"), estimate=False)
def command(
    directory: Annotated[Path | None, typer.Argument(metavar="DIR", help="Directory of the configuration.")] = None,
    *,
    list_all: Annotated[bool, typer.Option("--list", help="Show every configuration that you trust.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Trust the one in DIR no more.")] = False,
    output: OutputOptions,
) -> Answer:
    """Let code that this directory's configuration names run from now on, for checkpoints in other directories."""
    if (directory is None) is not list_all or (list_all and remove):
        raise UsageError("Expected a directory, or --list alone.", "Give the directory of a fromage.toml, or --list.")
    if directory is None:
        return _answer(Trust(tuple(_looked_at(path) for path, _ in remembered())), "You trust no configuration.")
    place = Path(os.path.realpath(directory.parent if directory.name in FILES else directory))
    if remove:
        removed = tuple(map(str, forget(place)))
        words = f"No longer trusted: {', '.join(removed)}." if removed else f"Nothing in {place} was trusted."
        return _answer(Trust((), removed), words)
    for source in (place / name for name in FILES):
        if source.is_file() and (values := project_values(source)) is not None:
            remember(source, values)
            return _answer(Trust((_looked_at(source),)), "")
    raise InputError(
        f"There is no configuration in {place}: no fromage.toml, and no pyproject.toml with [tool.fromage-diag].",
        "Name the directory that holds it; --list shows those that you trust.",
    )


def _looked_at(source: Path) -> TrustedConfiguration:
    """A configuration that was trusted, as it stands now; without code where it can no longer be read."""
    try:
        values = project_values(source) or {}
        unchanged = is_trusted(source, values, source.parent)
    except (UsageError, OSError):
        return TrustedConfiguration(str(source), (), (), False)
    named = specifications(values)
    files = code_files(named, source.parent, source.parent)
    code = tuple(one.text for one in named)
    beside = _checkpoints_in(source.parent) if code else ()
    return TrustedConfiguration(str(source), code, tuple(map(str, files)), unchanged, beside)


def _checkpoints_in(directory: Path) -> tuple[str, ...]:
    """The names of files in a directory that look like checkpoints."""
    from fromage_cli.checkpoints.finding.directory import has_usual_name

    files = sorted(path for path in directory.iterdir() if path.is_file())
    return tuple(path.name for path in files if path.suffix.lower() in CHECKPOINTS or has_usual_name(path))


def _findings(trusted: Sequence[TrustedConfiguration]) -> Iterator[Finding]:
    """What a yes does not hold for."""
    for one in trusted:
        if one.beside:
            name = Path(one.path).name
            yield Finding(
                code="checkpoint-beside-configuration",
                severity="info",
                message=f"this does not hold for {first_names(one.beside)}: beside a checkpoint, {name} is data only",
                hint=f"Move {name} and its code one directory up. Or add --trust to each call.",
                value=float(len(one.beside)),
            )


def _answer(result: Trust, otherwise: str) -> Answer:
    def page(style: PageStyle) -> "RenderableType":
        from rich.text import Text

        lines = [line for one in result.trusted for line in _lines(one)]
        return Text("\n".join(visible(line) for line in lines or [otherwise]))

    table = Table(("path", "unchanged"), tuple((one.path, one.unchanged) for one in result.trusted))
    found = tuple(_findings(result.trusted))
    counts = [
        ("trusted", len(result.trusted), "configurations"),
        ("changed", sum(not one.unchanged for one in result.trusted), "configurations"),
        ("removed", len(result.removed), "configurations"),
    ]
    tables = {"trusted": lambda: table, "summary": lambda: summary(counts)}
    return Answer(result, page=page, tables=tables, findings=found)


def _lines(trusted: TrustedConfiguration) -> list[str]:
    """A configuration on the page: what it names, and the files that are looked at."""
    if not trusted.unchanged:
        return [f"{trusted.path}: changed since you trusted it, and asks again."]
    code = f"may run {', '.join(trusted.code)}" if trusted.code else "names no code"
    return [
        f"{trusted.path}: {code}, until one of these changes:",
        *(f"  {file}" for file in (trusted.path, *trusted.files)),
    ]
