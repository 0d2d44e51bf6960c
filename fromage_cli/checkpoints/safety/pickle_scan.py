"""Every pickle in a file or a directory, and the names in each: also those inside of others, and of what is not read.

Nothing is loaded. A pickle that breaks off counts for what came before; a loader would have done that much. A file may
be several things at once, and is looked at as each. What is not looked into is said.
"""

import os
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fromage_cli.checkpoints.formats.npy_header import NPY_MAGIC, read_array_header
from fromage_cli.checkpoints.formats.zip_container import ZipContainer
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.pickle_stream import GivenUp, PickleStream
from fromage_cli.checkpoints.pickles.unpickling import (
    RULE_BREAKS,
    PickledName,
    garbage_collection_paused,
    names_of,
    run,
)
from fromage_cli.checkpoints.safety.other_formats import holds_numbers, unjudged
from fromage_cli.checkpoints.safety.surveyor import Surveyor
from fromage_cli.checkpoints.storage.files import HEAD, status_of
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.errors import FromageError

MOST_FILES, MOST_CONSECUTIVE_PICKLES, MOST_NESTED = 10_000, 8, 3
"""How many are looked at: files of a directory, pickles in a row in a file, levels of pickles and archives in others.

A file of torch.save has five pickles and one level; a loader of more would be an attack that is found at the third.
"""
LONGEST_LINE = 1 << 27
"""Bytes of a number or a name in a line."""
ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""How ZIP archives begin."""
PYTHON = ".py"
CODE = re.compile(
    r".*\.(py[codi]?|so(\.\d+)*|dll|dylib)|(.*/)?(models/[^/]+|serialized_exported_program)\.json", re.IGNORECASE
)
"""What members are called that hold code or graphs."""
_MODULE = re.compile(r"[\w.-]+")
"""What a module can be called; lines of a text that is no pickle seldom look like it."""


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
    for count, file in enumerate(_entries(path)):
        if count == MOST_FILES:
            yield Scanned(path, "", kind="other", fault=f"only {MOST_FILES} of its files were looked into")
            return
        if file.is_dir():
            yield Scanned(file, "", kind="other", fault="this directory was not looked into")
            continue
        try:
            yield from _in_file(file)
        except FromageError as error:
            yield Scanned(file, "", fault=error.message)


def _entries(directory: Path) -> Iterator[Path]:
    """Yield the files of a directory and of those below that are not empty.

    Directories stand for themselves where they are links, which are not followed, or cannot be read.
    """
    unread: list[OSError] = []
    for parent, folders, names in os.walk(directory, onerror=unread.append):
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        paths = (Path(parent) / name for name in sorted([*names, *links]))
        yield from (path for path in paths if path.exists() and not (path.is_file() and path.stat().st_size == 0))
    yield from (Path(error.filename) for error in unread)


@dataclass(frozen=True)
class _Place:
    """Some bytes, where they stand, and what their pickles may take."""

    source: Source
    part: str
    allowance: Allowance
    depth: int = 0
    """Pickles and archives that they are inside of."""

    def within(self, source: Source, part: str, allowance: Allowance | None = None) -> "_Place":
        """Return a place inside of this one."""
        return _Place(source, f"{self.part} > {part}".removeprefix(" > "), allowance or self.allowance, self.depth + 1)

    def scanned(self, fault: str, kind: Literal["pickle", "graph", "other"] = "other") -> Scanned:
        """Return what is said of a place that is not looked into."""
        return Scanned(self.source.path, self.part, kind=kind, fault=fault)


def _in_file(path: Path) -> Iterator[Scanned]:
    """Yield what a file would run."""
    if path.suffix == PYTHON:
        yield Scanned(path, "", kind="code")
    source = Source.of_file(path)
    yield from _in_bytes(_Place(source, "", Allowance(source.size)))


def _in_bytes(place: _Place) -> Iterator[Scanned]:
    """Yield what some bytes would run, as each thing that they are."""
    if place.depth > MOST_NESTED:
        yield place.scanned(
            f"what lies inside {MOST_NESTED} levels of pickles or archives was not looked into", "pickle"
        )
        return
    with place.source.open() as file:
        head = file.read(HEAD)
        if head.startswith(ARCHIVES):
            yield from _in_archive(place)
            return
        if head.startswith(NPY_MAGIC):
            known = yield from _in_array(place, file)
        elif holds_numbers(place.source, head):
            yield from _one_after_another(place, file, certain=False)
            known = True
        else:
            known = yield from _one_after_another(place, file)
    if fault := unjudged(place.source, head, known):
        yield place.scanned(fault)


def _in_archive(place: _Place) -> Iterator[Scanned]:
    """Yield what the members of a ZIP archive would run."""
    container = ZipContainer(place.source)
    storages = _storages(container.members)
    others = [name for name in container.members if not storages.fullmatch(name)]
    allowance = Allowance(sum(container.members[name].stored for name in others))
    for name in others:
        member = place.within(place.source, name, allowance)
        if CODE.fullmatch(name):
            yield member.scanned("", "graph")
            continue
        try:
            yield from _in_bytes(replace(member, source=container.content(name)))
        except FromageError as error:
            yield member.scanned(error.message)


def _storages(members: Iterable[str]) -> re.Pattern[str]:
    """Return what the members are called that torch reads as numbers."""
    roots = {name.removesuffix("data.pkl") for name in members if f"/{name}".endswith("/data.pkl")}
    packages = {name.partition(".data/")[0] for name in members if name.endswith(".data/extern_modules")}
    folders = [f"{re.escape(root)}(data|constants|tensors)/[0-9]+" for root in roots]
    folders += [rf"{re.escape(root)}\.data/[0-9]+\.storage" for root in packages]
    return re.compile("|".join(folders) or "(?!)")


def _in_array(place: _Place, file: Window) -> Generator[Scanned, None, bool]:
    """Yield what an array would run, and return that it is judged."""

    def first_bytes(count: int) -> bytes:
        file.seek(0)
        return file.read(count)

    try:
        header = read_array_header(first_bytes)
    except ValueError as error:
        yield place.scanned(f"an array was not looked into: {error}")
        return True
    if header.objects and not (yield from _one_after_another(place, file, begin=header.begin)):
        yield place.scanned("the objects of an array were not looked into")
    if header.dtype and header.begin + header.size < place.source.size:
        yield place.scanned("what follows an array was not looked into")
    return True


def _one_after_another(
    place: _Place, file: Window, *, begin: int = 0, certain: bool = True
) -> Generator[Scanned, None, bool]:
    """Yield what pickle after pickle would run, as older files of torch have them, up to what is no pickle.

    Return whether the first is one. Without `certain` a mark at its beginning does not make it one.
    """
    path, size = place.source.path, place.source.size
    for index in range(MOST_CONSECUTIVE_PICKLES):
        file.seek(begin)
        marked = file.read(1) == b"\x80" and certain
        stream = PickleStream(file, path, size, begin, place.part, longest_line=LONGEST_LINE)
        surveyor = Surveyor(stream, place.allowance)
        fault, given_up = _fault(surveyor)
        names = names_of(surveyor)
        if fault and not marked:  # it may be no pickle
            names = tuple(named for named in names if _MODULE.fullmatch(named.module))
        if names or given_up or (fault and marked and not index):
            yield Scanned(path, place.part, names, fault=fault)
        yield from _loaded(place, surveyor)
        if fault:
            return bool(names or given_up or marked or index)
        if stream.frame_end > stream.position < size:  # loaders in C and in Python would go on at different places
            yield place.scanned("what follows the end within a frame was not looked into")
        if stream.remaining <= 0:
            return True
        begin = stream.position
    yield place.scanned(f"what follows its first {MOST_CONSECUTIVE_PICKLES} pickles was not looked into")
    return True


def _loaded(place: _Place, surveyor: Surveyor) -> Iterator[Scanned]:
    """Yield what a loader inside of a pickle would load."""
    for loader in surveyor.unseen:
        yield place.scanned(f"what {loader} would load was not looked into")
    for stored in surveyor.loaded:
        inner = place.within(Source.of_bytes(place.source.path, stored), "bytes")
        try:
            yield from _in_bytes(inner)
        except FromageError as error:
            yield inner.scanned(error.message)


def _fault(surveyor: Surveyor) -> tuple[str, bool]:
    """Run the pickle; return why it was read no further, if so, and whether an ordinary unpickler would go on."""
    try:
        with garbage_collection_paused():
            run(surveyor)
    except FromageError as error:
        return error.message, isinstance(error, GivenUp)
    except RULE_BREAKS as error:
        return f"{type(error).__name__} ({str(error)[:100]})", False
    return "", False
