"""A PyTorch file of before version 1.6: pickles one after another, then the storages; or a pickle of another origin.

The pickles: a magic number, the version of the protocol, the system, the object, the keys of its storages. Each storage
is its number of elements in eight bytes, then the elements. Source: torch/serialization.py, `_legacy_save`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, NESTED, parse_storage_id
from fromage_cli.checkpoints.pickles.machine import Constructor, Unusable
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.unpickling import PickledName, Unpickled, unpickle
from fromage_cli.checkpoints.storage.sources import Source, Window
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES, OutsideStorage, Storage, are_whole_numbers

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number by which torch.save of before 1.6 marks its files."""
MOST_NESTED_FILES = 2
"""Files of this kind inside of each other: a storage in a pickle is one, and no library nests more."""


class LegacyFile:
    """One file, or bytes inside a pickle, whose storages are read when a tensor is."""

    def __init__(self, source: Source, allowance: Allowance | None = None, depth: int = 0) -> None:
        """`allowance` is what its pickles may take; `depth` counts files within files."""
        self.path, self.size, self.depth = source.path, source.size, depth
        self._source = source
        self._allowance = allowance or Allowance(source.size)
        self._storages: dict[str, Storage] = {}
        self._positions: dict[str, int] = {}
        self._names: list[PickledName] = []

    def load(self) -> Unpickled:
        """Return what the file's pickle describes; tensors are places in the file."""
        with self._source.open() as file:
            first = self._unpickle(file, 0)
            if first.value != LEGACY_MAGIC:
                return replace(first, names=(*first.names, *self._names))
            version = self._unpickle(file, first.end)
            system = self._unpickle(file, version.end)
            little = system.value.get("little_endian", True) if isinstance(system.value, dict) else True
            main = self._unpickle(file, system.end, partial(self._storage, little is False))
            keys = self._unpickle(file, main.end)
            found = keys.value if isinstance(keys.value, list) else []
            listed = [str(key) for key in found if isinstance(key, str | int)]  # the text of others has no end
            stream = PickleStream(file, self.path, self.size, keys.end)
            if len(listed) < len(found) or set(listed) != set(self._storages) or len(listed) > len(self._storages):
                raise stream.damaged("it lists other storages than its tensors use")
            place = keys.end
            for key in listed:  # from storage to storage without reading them: all of them must be there
                file.seek(place)
                storage = self._storages[key]
                count = int.from_bytes(file.read(8), "big" if storage.big_endian else "little")
                begin, place = place + 8, place + 8 + storage.size
                if place > self.size:
                    raise PickleStream(file, self.path, self.size, begin).cut_off(storage.size)
                if count * ELEMENT_BYTES[storage.dtype] != storage.size:
                    raise stream.damaged(
                        f"the storage {key!r} has {count} elements, but its tensors need another number,"
                    )
                self._positions[key] = begin
        return replace(main, names=(*main.names, *self._names))

    def _unpickle(self, file: Window, begin: int, persistent: Callable[[Any], Any] | None = None) -> Unpickled:
        stream = PickleStream(file, self.path, self.size, begin)
        constructors = with_nested(CONSTRUCTORS, self.path, self._allowance, self._names, self.depth + 1)
        return unpickle(stream, constructors, persistent, self._allowance)

    def _storage(self, big_endian: bool, identifier: Any) -> Any:
        """Return the storage of a persistent id: ("storage", class, key, device, elements, (view's key, offset, size)).

        ("module", class, file, source) is a class with its source, which is neither compiled nor kept.
        """
        if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
            return identifier[1]
        key, dtype, size = parse_storage_id(identifier)
        if size > self.size:
            raise OutsideStorage(f"a storage of {size} bytes")

        def read_into(begin: int, view: memoryview) -> None:
            self._source.read_into(self._positions[key] + begin, view)

        verify = self._source.check_unchanged
        root = self._storages.setdefault(key, Storage(key, dtype, size, read_into, big_endian, verify=verify))
        if (root.dtype, root.size) != (dtype, size):
            raise OutsideStorage(f"the storage {key:.60} as {root.dtype} and as {dtype}")
        return _view(root, identifier[5]) if len(identifier) > 5 and identifier[5] is not None else root


def with_nested(
    constructors: Mapping[str, Constructor], path: Path, allowance: Allowance, names: list[PickledName], depth: int = 1
) -> Mapping[str, Constructor]:
    """Return the constructors, and a reader of storages that stand as a whole file inside a pickle of `path`.

    To `names` are added those that such a file names.
    """

    def nested(stored: Any) -> Any:
        if not isinstance(stored, bytes) or depth > MOST_NESTED_FILES:
            names.append(PickledName("torch", "load", ("import", "call")))  # of what was not read here
            raise Unusable
        unpickled = LegacyFile(Source.of_bytes(path, stored), allowance, depth).load()
        names.extend(unpickled.names)
        if not isinstance(unpickled.value, Storage):
            raise Unusable
        return unpickled.value

    return {**constructors, NESTED: nested}


def _view(root: Storage, described: Any) -> Storage:
    """Return a part of a storage, described as (key, first element, elements)."""
    _, first, count = described if isinstance(described, tuple) and len(described) == 3 else ("", -1, -1)
    width = ELEMENT_BYTES[root.dtype]
    if not are_whole_numbers((first, count)) or (first + count) * width > root.size:
        raise OutsideStorage(f"a part {brief(described)} of a storage of {root.size} bytes")
    begin, size = first * width, count * width

    def read_into(place: int, view: memoryview) -> None:
        root.read_into(begin + place, view)

    return Storage(root.key, root.dtype, size, read_into, root.big_endian, root, begin, root.verify)
