"""Every pickle in a file or a directory, and the names in each: also those inside of others, and of what is not read.

Nothing is loaded. A pickle that breaks off counts for what came before; a loader would have done that much.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fromage_cli.checkpoints.formats.content import foreign_format
from fromage_cli.checkpoints.formats.npy_header import NPY_MAGIC, pickle_in_array
from fromage_cli.checkpoints.formats.npz_file import ARRAY_SUFFIX
from fromage_cli.checkpoints.formats.safetensors_file import read_header
from fromage_cli.checkpoints.formats.zip_container import ZipContainer
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, NESTED
from fromage_cli.checkpoints.pickles.machine import Constructor, Machine, Unusable
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.pickles.unpickling import (
    RULE_BREAKS,
    PickledName,
    garbage_collection_paused,
    names_of,
    run,
)
from fromage_cli.checkpoints.storage.files import HEAD, status_of
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.checkpoints.storage.stored_tensor import OutsideStorage
from fromage_cli.errors import FromageError

LOADERS = (NESTED, "_pickle.loads", "pickle.loads", "cPickle.loads", "dill.loads", "dill._dill.loads", "torch.load")
"""Functions whose bytes are pickles themselves."""
MOST_FILES, MOST_CONSECUTIVE_PICKLES, MOST_NESTED_PICKLES = 10_000, 8, 3
"""Files of a directory, pickles one after another in a file, pickles inside of pickles that are looked at.

A file of torch.save has five pickles and one level; a loader of more would be an attack that is found at the third.
"""
STORAGE_FOLDER = "/data/"
"""What the names of members hold that are tensors."""
PYTHON = ".py"
CODE_ENDINGS = (PYTHON, "models/model.json")
"""How the names of members end that hold code or graphs."""
_OPENINGS = frozenset(bytes((0x80, protocol)) for protocol in range(6))
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""What a class or function can be called; lines of a text that is no pickle seldom look like it."""


@dataclass(frozen=True)
class Scanned:
    """One pickle, or one piece of code."""

    file: Path
    part: str
    """The member of an archive, or what surrounds a pickle inside of another; empty for the file itself."""
    names: tuple[PickledName, ...] = ()
    kind: Literal["pickle", "graph", "code", "other"] = "pickle"
    """A pickle; code or a graph that a loader runs; code that runs where it is imported; something not looked into."""
    fault: str = ""
    """Why it was read no further."""


def scan(path: Path) -> Iterator[Scanned]:
    """Yield everything that could run in a file, or in all files of a directory, in their order.

    Raises InputError where the path cannot be read; files of a directory that cannot are told as faults.
    """
    status_of(path)
    if not path.is_dir():
        yield from _in_file(path)
        return
    for count, file in enumerate(_regular_files(path)):
        if count == MOST_FILES:
            yield Scanned(path, "", kind="other", fault=f"of its files only {MOST_FILES} were looked into")
            return
        try:
            yield from _in_file(file)
        except FromageError as error:
            yield Scanned(file, "", fault=error.message)


def _regular_files(directory: Path) -> Iterator[Path]:
    """Yield the files of a directory and of those below; links to directories are not followed."""
    for parent, folders, names in os.walk(directory):
        folders.sort()
        yield from (file for name in sorted(names) if (file := Path(parent) / name).is_file())


def _in_file(path: Path) -> Iterator[Scanned]:
    """Yield what a file would run, by its first bytes as a loader takes them."""
    source = Source.of_file(path)
    with source.open() as file:
        head = file.read(HEAD)
        if path.suffix == PYTHON:
            yield Scanned(path, "", kind="code")
        elif head[8:9] == b"{" and _is_safetensors(path):
            return
        elif head.startswith(b"PK"):
            yield from _in_archive(source)
        elif head.startswith(NPY_MAGIC):
            yield from _in_array(path, "", file, source.size, Allowance(source.size))
        elif found := foreign_format(head):
            yield Scanned(path, "", kind="other", fault=f"{found[0]} was not looked into")
        else:  # a loader takes any opcode for the first
            yield from _one_after_another(path, "", file, source.size, Allowance(source.size))


def _is_safetensors(path: Path) -> bool:
    """Tell whether a header is valid: a pickle can have a brace where one begins, but not all of one."""
    try:
        read_header(path)
    except FromageError:
        return False
    return True


def _in_archive(source: Source, allowance: Allowance | None = None, depth: int = 0) -> Iterator[Scanned]:
    """Yield what the members of a ZIP archive would run."""
    container = ZipContainer(source)
    if allowance is None:
        others = (member for name, member in container.members.items() if STORAGE_FOLDER not in name)
        allowance = Allowance(sum(member.stored for member in others))
    for name in container.members:
        if name.endswith(CODE_ENDINGS):
            yield Scanned(source.path, name, kind="graph")
            continue
        try:
            head = next(container.heads((name,), 8))  # all that is read of members that only hold numbers
            named = name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin", ARRAY_SUFFIX))
            begins = head[:2] in _OPENINGS and STORAGE_FOLDER not in name  # the first numbers of a storage may look so
            if named or begins or head.startswith(b"PK\x03\x04"):
                yield from _in_bytes(source.path, name, container.read_pickle(name), allowance, depth)
        except FromageError as error:
            yield Scanned(source.path, name, fault=error.message)


def _in_bytes(path: Path, part: str, content: bytes, allowance: Allowance, depth: int) -> Iterator[Scanned]:
    """Yield what bytes inside of a pickle or an archive would run."""
    window = Window(io.BytesIO(content), path, 0, len(content))
    if content.startswith(b"PK\x03\x04"):
        source = Source.of_bytes(path, content)
        for found in _in_archive(source, allowance, depth + 1) if depth < MOST_NESTED_PICKLES else _too_deep(path, ""):
            yield replace(found, part=f"{part} > {found.part}".removesuffix(" > "))
    elif content.startswith(NPY_MAGIC):
        yield from _in_array(path, part, window, len(content), allowance)
    else:
        yield from _one_after_another(path, part, window, len(content), allowance, depth=depth)


def _too_deep(path: Path, part: str) -> Iterator[Scanned]:
    yield Scanned(
        path, part, fault=f"what lies inside of {MOST_NESTED_PICKLES} pickles or archives was not looked into"
    )


def _in_array(path: Path, part: str, file: Window, size: int, allowance: Allowance) -> Iterator[Scanned]:
    begin = pickle_in_array(file)
    if begin is not None:
        yield from _one_after_another(path, part, file, size, allowance, begin=begin)


def _one_after_another(
    path: Path, part: str, file: Window, size: int, allowance: Allowance, *, depth: int = 0, begin: int = 0
) -> Iterator[Scanned]:
    """Yield what pickle after pickle would run, as older files of PyTorch have them, up to what is no pickle."""
    file.seek(begin)
    binary = file.read(1) == b"\x80"
    for index in range(MOST_CONSECUTIVE_PICKLES):
        nested: list[bytes] = []
        stream = PickleStream(file, path, size, begin, part)
        machine = Machine(stream, _collecting(nested), lambda identifier: identifier, allowance)
        fault = ""
        try:
            with garbage_collection_paused():
                run(machine)
        except FromageError as error:
            fault = error.message
        except (*RULE_BREAKS, OutsideStorage) as error:
            fault = f"{type(error).__name__} ({str(error)[:100]})"
        names = tuple(named for named in names_of(machine) if binary or _NAME.fullmatch(named.dotted))
        if names or (fault and index == 0 and binary):
            yield Scanned(path, part, names, fault=fault)
        inner = f"{part} > bytes" if part else "bytes"
        if nested and depth == MOST_NESTED_PICKLES:
            yield from _too_deep(path, inner)
        for stored in dict.fromkeys(nested) if depth < MOST_NESTED_PICKLES else ():
            yield from _in_bytes(path, inner, stored, allowance, depth + 1)
        if fault or stream.remaining <= 0:
            return
        begin = stream.position
    yield Scanned(
        path, part, kind="other", fault=f"what follows its first {MOST_CONSECUTIVE_PICKLES} pickles was not looked into"
    )


def _collecting(nested: list[bytes]) -> Mapping[str, Constructor]:
    """Return constructors that keep the bytes which a loader inside of the pickle would have loaded."""

    def keep(*args: Any) -> Any:
        for argument in args:
            stored = argument.args[0] if isinstance(argument, Placeholder) and argument.args else argument
            if isinstance(stored, bytes):
                nested.append(stored)
        raise Unusable

    return {**CONSTRUCTORS, **dict.fromkeys(LOADERS, keep)}
