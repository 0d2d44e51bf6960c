"""The `.metadata` file of a torch.distributed.checkpoint: which piece of which tensor lies where.

It is a pickle; it is read without importing or calling anything that it names, and every number in it is checked.
Source of its classes: torch/distributed/checkpoint/metadata.py and filesystem.py, PyTorch 2.0 to 2.13.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.names.library_files import MOST_SHARDS
from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.nested.candidates import DICTIONARY_LEVELS
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, dtype_of
from fromage_cli.checkpoints.pickles.machine import Unusable
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.placeholders import Placeholder
from fromage_cli.checkpoints.pickles.unpickling import unpickle
from fromage_cli.checkpoints.storage.files import FileVersion, opened, quoted
from fromage_cli.checkpoints.storage.path_confinement import confined_path
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES, are_whole_numbers, is_shape
from fromage_cli.errors import InputError

DCP_MODULE = "torch.distributed.checkpoint."
MOST_NESTED_NAMES = 2 * DICTIONARY_LEVELS
"""Levels of dictionaries in a checkpoint: below those that are looked into lie the names of tensors, cut at dots."""
Offsets = tuple[int, ...] | None


@dataclass(frozen=True)
class ByteRange:
    """Bytes of a shard: something that torch.save wrote."""

    file: Path
    begin: int
    length: int


@dataclass(frozen=True)
class Piece:
    """A box of a tensor's elements."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    bytes: ByteRange


@dataclass(frozen=True)
class SavedItem:
    """A tensor and its pieces, or with `dtype` None any other object."""

    path: tuple[str | int, ...]
    """Where it stood in the nested dictionary that was saved."""
    dtype: str | None
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


def read_metadata(path: Path) -> dict[str, SavedItem]:
    """Read what a metadata file says, by fully qualified name.

    What is wrong with it raises InputError, a path out of its directory UnsafeError.
    """
    version = FileVersion.of(path)
    with opened(path) as file:
        root = unpickle(PickleStream(file, path, version.size), CONSTRUCTORS).value
    saved = _attributes(root, "Metadata")
    items, paths, places = (saved.get(name) for name in ("state_dict_metadata", "planner_data", "storage_data"))
    if not isinstance(items, dict) or not isinstance(places, dict):
        raise InputError(
            f"{quoted(path)} is not the metadata of a torch.distributed.checkpoint.",
            hint="It belongs to another library or version. Save with torch.distributed.checkpoint.save.",
        )
    locations = _locations(path, places)
    known = paths if isinstance(paths, dict) else {}
    found: dict[str, SavedItem] = {}
    pieces = 0
    for name, item in items.items():
        found[str(name)] = _item(path, str(name), item, known.get(str(name)), locations)
        pieces += len(found[str(name)].pieces)
        if pieces > len(locations):  # one list of pieces may stand in every item
            raise damaged(path, f"it has more pieces of tensors than the {len(locations)} whose place it gives")
    return found


def damaged(path: Path, reason: str) -> InputError:
    """Return the error for metadata that contradict themselves."""
    return InputError(f"{quoted(path)} is damaged: {reason}.", hint="Copy the checkpoint again, or save it again.")


def _locations(path: Path, saved: Mapping[Any, Any]) -> dict[tuple[str, Offsets], ByteRange]:
    """Return where the pieces of every name lie, by name and first element."""
    files: dict[str, Path] = {}
    locations: dict[tuple[str, Offsets], ByteRange] = {}
    for key, value in saved.items():
        index, info = _attributes(key, "MetadataIndex"), _attributes(value, "_StorageInfo")
        offsets: Any = index.get("offset")
        name, file = index.get("fqn"), info.get("relative_path")
        ends: Any = [info.get("offset"), info.get("length")]
        fits = are_whole_numbers(ends) and (offsets is None or is_shape(offsets))
        if not isinstance(file, str) or not isinstance(name, str) or not fits:
            raise damaged(path, f"it names no bytes for {brief(name)}")
        if changed := info.get("transform_descriptors"):
            raise InputError(
                f"{quoted(path)}: the shards are compressed or encrypted ({brief(changed)}).",
                hint="Save without extensions of the storage writer.",
            )
        if file not in files:
            if len(files) >= MOST_SHARDS:
                raise damaged(path, f"it names more than {MOST_SHARDS} shards")
            files[file] = confined_path(path, file)
        locations[name, None if offsets is None else tuple(offsets)] = ByteRange(files[file], *ends)
    return locations


def _item(path: Path, name: str, item: Any, keys: Any, locations: Mapping[tuple[str, Offsets], ByteRange]) -> SavedItem:
    """Return one saved item, whose `keys` lead to it in the nested dictionary that was saved."""

    def location(offsets: Offsets) -> ByteRange:
        if (name, offsets) not in locations:
            raise damaged(path, f"it does not say where {name!r} lies")
        return locations[name, offsets]

    if isinstance(keys, tuple) and len(keys) > MOST_NESTED_NAMES:
        raise damaged(path, f"{brief(name)} lies {len(keys)} dictionaries deep")
    lead = isinstance(keys, tuple) and keys and all(type(key) in (str, int) for key in keys)
    where: tuple[str | int, ...] = keys if lead else (name,)
    kind = item.kind.name if isinstance(item, Placeholder) else ""
    if kind == "BytesStorageMetadata":
        return SavedItem(where, None, (), (Piece((), (), location(None)),))
    if kind != "TensorStorageMetadata":
        raise damaged(path, f"{name!r} is neither a tensor nor an object")
    saved = item.attributes
    shape, properties, chunks = saved.get("size"), saved.get("properties"), saved.get("chunks")
    state = properties.state if isinstance(properties, Placeholder) else None  # a tuple in newer versions
    try:
        dtype = dtype_of(state[0] if isinstance(state, tuple) else _attributes(properties)["dtype"])
    except (Unusable, KeyError, IndexError) as error:
        raise damaged(path, f"tensor {name!r} has no known dtype") from error
    if not is_shape(shape):
        raise damaged(path, f"tensor {name!r} has the shape {brief(shape)}")
    pieces = []
    for chunk in chunks if isinstance(chunks, list) else ():
        box = _attributes(chunk, "ChunkStorageMetadata")
        offsets, sizes = box.get("offsets"), box.get("sizes")
        if not (is_shape(offsets) and is_shape(sizes) and len(offsets) == len(sizes) == len(shape)):
            raise damaged(path, f"a piece of {name!r} has no offsets and sizes")
        if any(begin + size > whole for begin, size, whole in zip(offsets, sizes, shape, strict=True)):
            raise damaged(path, f"a piece of {name!r} lies outside the tensor")
        piece = Piece(tuple(offsets), tuple(sizes), location(tuple(offsets)))
        if math.prod(sizes) * ELEMENT_BYTES[dtype] > piece.bytes.length:
            raise damaged(path, f"a piece of {name!r} has more elements than the bytes written for it can hold")
        pieces.append(piece)
    return SavedItem(where, dtype, tuple(shape), tuple(pieces))


def _attributes(value: Any, kind: str = "") -> Mapping[str, Any]:
    """Return the attributes of what would have been an object of DCP's; nothing of any other object's."""
    if not isinstance(value, Placeholder) or not value.kind.module.startswith(DCP_MODULE):
        return {}
    return value.attributes if not kind or value.kind.name == kind else {}
