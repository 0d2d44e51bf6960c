"""Where the answer goes: standard output, or a file that is written whole or not at all."""

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fromage_cli import stopping
from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal import input_files, session, streams
from fromage_cli.terminal.documents import DOCUMENTS
from fromage_cli.terminal.options import OutputOptions
from fromage_cli.terminal.words import visible

EXTENSIONS = {".json": "json", ".jsonl": "jsonl", ".tsv": "tsv", ".csv": "csv", ".md": "md", ".txt": "rich"}
EXTENSIONS |= {".xml": "junit", ".prom": "prom"}


@dataclass(frozen=True)
class Destination:
    """Format and place of an answer, decided before anything is computed."""

    format: str
    """One of rich, tsv, csv, md, of the documents, or the one format that only this command has."""
    path: Path | None = None
    """None is standard output."""
    force: bool = False
    """An existing file may be replaced."""

    @property
    def document(self) -> bool:
        """Whether a program reads the answer, or the error that stands in its place."""
        return self.format in DOCUMENTS


def prepare_output(options: OutputOptions, own: str | None = None) -> Destination:
    """Decide format and place; raises UsageError or InputError now rather than after the computation.

    `own`: the format, and ending, of a command whose answer is a document of its own.
    """
    format = chosen_format(options, own)
    if options.output is not None:
        check_writable(options.output, options.force)
    return Destination(format, options.output, options.force)


def chosen_format(options: OutputOptions, own: str | None = None) -> str:
    """The format asked for; under `auto` by the file's extension, else tsv for a pipe or a named table, and rich.

    Under `auto` a command with a format of its own writes that. Raises UsageError.
    """
    if options.json:
        return "json"
    if options.format != "auto":
        return options.format
    if options.output is not None:
        extension = options.output.suffix
        if own is not None and extension.lower() == f".{own}":
            return own
        if extension.lower() in EXTENSIONS:
            return EXTENSIONS[extension.lower()]
        raise UsageError(
            f"-o {visible(str(options.output))}: no format goes with the extension {visible(extension)!r}.",
            hint=f"Extensions are {' '.join((*([f'.{own}'] if own else []), *EXTENSIONS))}. Or give a --format.",
        )
    if own is not None and options.table is None:
        return own
    return "rich" if streams.is_terminal(streams.answer()) and options.table is None else "tsv"


def check_writable(path: Path, force: bool) -> None:
    """Raise InputError where the file could not be written or must not be replaced, UsageError where it is an input."""
    name, place = visible(str(path)), _absolute(path)
    directory = place.parent
    input_files.check_no_input(place)
    if place.exists() and not place.is_file():
        raise InputError(f"Cannot write {name}: it is not a regular file.", hint="Name a file, or leave -o out.")
    if not directory.is_dir():
        missing = visible(str(path.parent))
        raise InputError(f"Cannot write {name}: there is no directory {missing}.", hint="Make it first.")
    if os.path.lexists(place) and not force:
        raise InputError(f"{name} exists already.", hint="Choose another name, or add --force to overwrite it.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(
            f"Cannot write {name}: its directory gives no permission to write.", hint="Choose another directory."
        )


def _absolute(path: Path) -> Path:
    """The path as it was meant: code run since may have changed the working directory."""
    return session.current().directory / path


def write_file(path: Path, text: str | bytes, force: bool = False) -> None:
    """Write a file whole or not at all; an existing one is replaced only with `force`, whenever it appeared."""
    data = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    check_writable(path, force)
    place = _absolute(path)
    input_files.check_no_input(place, data)
    target = place.resolve() if place.is_symlink() else place
    temporary = target.with_name(f".{target.name[:100]}.{os.urandom(6).hex()}.tmp")
    with stopping.undisturbed():
        try:
            replaced = target.stat() if force and target.exists() else None
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if replaced else 0o666)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if replaced is not None:  # whoever could read the file before can, and nobody else
                    with contextlib.suppress(PermissionError):
                        os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode))
                file.flush()
                os.fsync(descriptor)
            _put_in_place(temporary, target, force)
        except FileExistsError as error:
            raise InputError(
                f"{visible(str(path))} exists already.", hint="Choose another name, or add --force to overwrite it."
            ) from error
        except OSError as error:
            raise InputError(
                f"Cannot write {visible(str(path))}: {error.strerror}.", hint="Choose another place with -o FILE."
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
        try:
            temporary.replace(target)
        except BaseException:
            target.unlink()
            raise
