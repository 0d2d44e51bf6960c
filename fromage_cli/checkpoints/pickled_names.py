"""The names that a pickle asks for, found by reading its opcodes; nothing is imported or called."""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fromage_cli.checkpoints.files import opened

LONGEST_READ = 64_000_000  # bytes of pickle that are looked at
HARMLESS = ("torch.", "collections.OrderedDict")  # what a file of tensors asks for


def foreign_names(path: Path) -> list[str]:
    """Return the dotted names that the first pickle in a PyTorch file asks for, beyond those that make up tensors."""
    try:
        names = dict.fromkeys(_names(_pickle_in(path)))
    except (zipfile.BadZipFile, zlib.error, EOFError, StopIteration):
        return []
    return [name for name in names if not name.startswith(HARMLESS)]


def _pickle_in(path: Path) -> bytes:
    with opened(path) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return file.read(LONGEST_READ)
        with zipfile.ZipFile(file) as archive:
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(member) as data:
                return data.read(LONGEST_READ)


def _names(pickled: bytes) -> Iterator[str]:
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in {"GLOBAL", "INST"}:
                yield str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # a damaged pickle: what came before still counts
        return
