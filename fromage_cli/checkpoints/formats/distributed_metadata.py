"""The `.metadata` file of a torch.distributed.checkpoint: which piece of which tensor lies where.

It is a pickle; it is read without importing or calling anything that it names, and every number in it is checked.
Source of its classes: torch/distributed/checkpoint/metadata.py and filesystem.py, PyTorch 2.0 to 2.13.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from fromage_cli.checkpoints.names.naming import brief, listed
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, dtype_of
from fromage_cli.checkpoints.pickles.machine import Unfit
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.pickles.unpickling import unpickle
from fromage_cli.checkpoints.storage.files import FileVersion, opened, quoted
from fromage_cli.checkpoints.storage.path_confinement import contained
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES, is_shape
from fromage_cli.errors import InputError

MODULE = "torch.distributed.checkpoint."
MOST_FILES = 10_000


@dataclass(frozen=True)
class Place:
    """Bytes of a shard: something that torch.save wrote."""

    file: Path
    begin: int
    length: int


@dataclass(frozen=True)
class Piece:
    """A box of a tensor's elements."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


@dataclass(frozen=True)
class Stored:
    """A tensor and its pieces, or with `dtype` None any other object."""

    path: tuple[str | int, ...]
    """Where it stood in the nested dictionary that was saved."""
    dtype: str | None
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Metadata:
    """What a metadata file says, by fully qualified name."""

    items: Mapping[str, Stored]

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, each once."""
        return tuple(dict.fromkeys(piece.place.file for item in self.items.values() for piece in item.pieces))


def read_metadata(path: Path) -> Metadata:
    """Read a metadata file; what is wrong with it raises InputError, a path out of its directory UnsafeError."""
    version = FileVersion.of(path)
    with opened(path) as file:
        root = unpickle(PickleStream(file, path, version.size), CONSTRUCTORS).value
    saved = _attributes(root, "Metadata")
    items, paths, places = (saved.get(name) for name in ("state_dict_metadata", "planner_data", "storage_data"))
    if not isinstance(items, dict) or not isinstance(places, dict):
        raise InputError(
            f"{quoted(path)} is no metadata of a torch.distributed.checkpoint.",
            hint="It belongs to another library or version; save with torch.distributed.checkpoint.save.",
        )
    found = _Places(path, places)
    return Metadata({str(name): _stored(path, str(name), item, paths, found) for name, item in items.items()})


class _Places:
    """Where the pieces of every name lie, by name and offsets."""

    def __init__(self, path: Path, saved: Mapping[Any, Any]) -> None:
        self.path = path
        self._files: dict[str, Path] = {}
        self._by_index = dict(self._read(saved))

    def find(self, name: str, offsets: tuple[int, ...] | None) -> Place:
        """Where the piece of a name that begins at `offsets` lies."""
        found = self._by_index.get((name, offsets))
        if found is None:
            raise damaged(self.path, f"it does not say where {name!r} lies")
        return found

    def _read(self, saved: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, tuple[int, ...] | None], Place]]:
        for key, value in saved.items():
            index, info = _attributes(key, "MetadataIndex"), _attributes(value, "_StorageInfo")
            offsets: Any = index.get("offset")
            file, begin, length = (info.get(name) for name in ("relative_path", "offset", "length"))
            ends: Any = [begin, length]
            fqn = index.get("fqn")
            fits = _whole(ends) and (offsets is None or _whole(offsets))
            if not isinstance(file, str) or not isinstance(fqn, str) or not fits:
                raise damaged(self.path, f"it names no bytes for {brief(fqn)}")
            if changed := info.get("transform_descriptors"):
                raise InputError(
                    f"{quoted(self.path)}: the shards are compressed or encrypted ({brief(changed)}).",
                    hint="Save without extensions of the storage writer.",
                )
            where = None if offsets is None else tuple(offsets)
            yield (fqn, where), Place(self._file(file), *ends)

    def _file(self, name: str) -> Path:
        if name not in self._files and len(self._files) >= MOST_FILES:
            raise damaged(self.path, f"it names more than {MOST_FILES} shards")
        if name not in self._files:
            self._files[name] = contained(self.path, name)
        return self._files[name]


def _stored(path: Path, name: str, item: Any, paths: Any, places: _Places) -> Stored:
    where = paths.get(name) if isinstance(paths, dict) else None
    steps: tuple[str | int, ...] = where if _is_path(where) else (name,)
    kind = item.kind.name if isinstance(item, Placeholder) else ""
    if kind == "BytesStorageMetadata":
        return Stored(steps, None, (), (Piece((), (), places.find(name, None)),))
    if kind != "TensorStorageMetadata":
        raise damaged(path, f"{name!r} is neither a tensor nor an object")
    said = item.attributes
    shape: Any = said.get("size")
    dtype = _dtype(path, name, said.get("properties"))
    if not is_shape(shape):
        raise damaged(path, f"tensor {name!r} has the shape {brief(shape)}")
    pieces = tuple(_pieces(path, name, tuple(shape), said.get("chunks"), places))
    if any(math.prod(piece.sizes) * ELEMENT_BYTES[dtype] > piece.place.length for piece in pieces):
        raise damaged(path, f"a piece of {name!r} has more elements than bytes were written for it")
    return Stored(steps, dtype, tuple(shape), pieces)


def _dtype(path: Path, name: str, properties: Any) -> str:
    """The dtype among a tensor's properties, which newer versions keep as a tuple."""
    state = properties.state if isinstance(properties, Placeholder) else None
    try:
        return dtype_of(state[0] if isinstance(state, tuple) else _attributes(properties)["dtype"])
    except (Unfit, KeyError, IndexError) as error:
        raise damaged(path, f"tensor {name!r} has no known dtype") from error


def _pieces(path: Path, name: str, shape: tuple[int, ...], chunks: Any, places: _Places) -> Iterator[Piece]:
    """The pieces of a tensor, each within it."""
    for chunk in chunks if isinstance(chunks, list) else ():
        said = _attributes(chunk, "ChunkStorageMetadata")
        offsets: Any = said.get("offsets")
        sizes: Any = said.get("sizes")
        if not (_whole(offsets) and _whole(sizes) and len(offsets) == len(sizes) == len(shape)):
            raise damaged(path, f"a piece of {name!r} has no offsets and sizes")
        if any(begin + size > whole for begin, size, whole in zip(offsets, sizes, shape, strict=True)):
            raise damaged(path, f"a piece of {name!r} lies outside of it")
        yield Piece(tuple(offsets), tuple(sizes), places.find(name, tuple(offsets)))


def damaged(path: Path, reason: str) -> InputError:
    """The error for metadata that contradict themselves."""
    return InputError(f"{quoted(path)} is damaged: {reason}.", hint="Copy the checkpoint again, or save it again.")


def missing_shards(path: Path, files: tuple[Path, ...]) -> InputError | None:
    """The error for shards that are not there; None when all are."""
    absent = [file.name for file in files if not file.exists()]
    if not absent:
        return None
    return InputError(
        f"{quoted(path)} is incomplete: {len(absent)} of {len(files)} shards are missing: {listed(absent)}.",
        hint="Copy the missing shards beside the metadata; every rank writes its own.",
        details=absent,
    )


def _attributes(value: Any, kind: str = "") -> Mapping[str, Any]:
    """The attributes of what would have been an object of DCP's; nothing of any other object's."""
    if not isinstance(value, Placeholder) or not value.kind.module.startswith(MODULE):
        return {}
    return value.attributes if not kind or value.kind.name == kind else {}


def _whole(numbers: Any) -> TypeGuard[list[int]]:
    return isinstance(numbers, list | tuple) and all(type(number) is int and 0 <= number < 2**60 for number in numbers)


def _is_path(where: Any) -> TypeGuard[tuple[str | int, ...]]:
    return isinstance(where, tuple) and bool(where) and all(type(step) in (str, int) for step in where)
