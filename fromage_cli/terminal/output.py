"""Where the answer goes: standard output, or a file that is written whole or not at all."""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal import streams
from fromage_cli.terminal.options import OutputOptions
from fromage_cli.terminal.words import visible

EXTENSIONS = {".json": "json", ".jsonl": "jsonl", ".tsv": "tsv", ".csv": "csv", ".md": "md", ".txt": "rich"}


@dataclass(frozen=True)
class Destination:
    """Format and place of an answer, decided before anything is computed."""

    format: str
    """One of rich, tsv, csv, json, jsonl, md."""
    path: Path | None = None
    """None is standard output."""
    force: bool = False
    """An existing file may be replaced."""

    @property
    def json(self) -> bool:
        """Whether a program reads the answer as JSON."""
        return self.format in ("json", "jsonl")


def prepare_output(options: OutputOptions) -> Destination:
    """Decide format and place; raises UsageError or InputError now rather than after the computation."""
    format = chosen_format(options)
    if options.output is not None:
        check_writable(options.output, options.force)
    return Destination(format, options.output, options.force)


def chosen_format(options: OutputOptions) -> str:
    """The format asked for; under `auto` by the file's extension, else rich for a terminal and tsv for a pipe."""
    if options.json:
        return "json"
    if options.format != "auto":
        return options.format
    if options.output is not None:
        extension = options.output.suffix
        if extension.lower() in EXTENSIONS:
            return EXTENSIONS[extension.lower()]
        raise UsageError(
            f"-o {visible(str(options.output))}: no format goes with the extension {visible(extension)!r}.",
            hint=f"extensions: {' '.join(EXTENSIONS)}; or name a --format",
        )
    return "rich" if streams.is_terminal(sys.stdout) else "tsv"


def check_writable(path: Path, force: bool) -> None:
    """Raise InputError where the file could not be written, or exists and must not be replaced."""
    name = visible(str(path))
    directory = path.parent
    if path.exists() and not path.is_file():
        raise InputError(f"cannot write {name}: it is not a regular file.", hint="name a file, or leave -o out")
    if not directory.is_dir():
        raise InputError(f"cannot write {name}: there is no directory {visible(str(directory))}.", hint="make it first")
    if os.path.lexists(path) and not force:
        raise InputError(f"{name} exists already.", hint="another name, or --force to overwrite it")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {name}: no permission to write in its directory.", hint="another directory")


def write_file(path: Path, text: str | bytes, force: bool = False) -> None:
    """Write a file whole or not at all; an existing one is replaced only with `force`, whenever it appeared."""
    check_writable(path, force)
    target = path.resolve() if path.is_symlink() else path
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    temporary = target.with_name(f".{target.name[:100]}.{os.urandom(6).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(temporary, target, force)
    except FileExistsError as error:
        raise InputError(
            f"{visible(str(path))} exists already.", hint="another name, or --force to overwrite it"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write {visible(str(path))}: {error.strerror}.", hint="another place with -o FILE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _put_in_place(temporary: Path, target: Path, force: bool) -> None:
    if force:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name first, then replace our own empty file
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary.replace(target)
