"""A PyTorch file in the ZIP format: one pickle of places, and a member for every storage.

ROOT/data.pkl names storages by key; ROOT/data/KEY holds their bytes, in the order that ROOT/byteorder tells. Archives
of TorchScript look the same. Source: torch/serialization.py and caffe2/serialize/inline_container.h.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from fromage_cli.checkpoints.checkpoint import Span
from fromage_cli.checkpoints.formats.torch_legacy import with_nested
from fromage_cli.checkpoints.formats.zip_container import ZipContainer
from fromage_cli.checkpoints.formats.zip_directory import damaged
from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, storage_dtype
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.unpickling import PickledName, Unpickled, unpickle
from fromage_cli.checkpoints.storage.files import FileVersion
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES, Misplaced, Storage, StoredTensor

PICKLE = "data.pkl"


class TorchArchive:
    """One archive, whose storages are read when a tensor is."""

    def __init__(self, source: Source) -> None:
        """Read the archive's directory; raises InputError where it is cut off or damaged."""
        self.container = ZipContainer(source)
        self.root = _root(self.container)
        self._storages: dict[str, Storage] = {}
        order = f"{self.root}byteorder"
        self.big_endian = order in self.container.members and self.container.read(order, 16) == b"big"

    def load(self, allowance: Allowance | None = None) -> Unpickled:
        """What the pickle describes, within what it may take; tensors are places in the archive."""
        name = f"{self.root}{PICKLE}"
        pickled = self.container.read_pickle(name)
        allowance = allowance or Allowance(self.container.member(name).stored)
        stream = PickleStream(io.BytesIO(pickled), self.container.path, len(pickled), part=name)
        nested: list[PickledName] = []
        constructors = with_nested(CONSTRUCTORS, self.container.path, allowance, nested)
        unpickled = unpickle(stream, constructors, self._storage, allowance)
        return replace(unpickled, names=(*unpickled.names, *nested))

    def spans(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Span]:
        """Where the elements of those tensors lie in the file that are there as they are."""
        version = self.container.source.version
        if version is None or self.big_endian or sys.byteorder == "big":
            return {}
        own = {name: tensor for name, tensor in tensors.items() if self._holds(tensor)}
        members = {name: f"{self.root}data/{tensor.storage.key}" for name, tensor in own.items() if tensor.storage}
        positions = self.container.positions(dict.fromkeys(members.values()))
        return {
            name: self._span(version, member, positions[member], own[name].span)
            for name, member in members.items()
            if member in positions
        }

    def _span(self, version: FileVersion, member: str, position: int, ends: tuple[int, int]) -> Span:
        return Span(version, position + ends[0], position + ends[1], partial(self.container.verify, member))

    def _holds(self, tensor: StoredTensor) -> bool:
        storage = tensor.storage
        known = storage is not None and self._storages.get(storage.key) is storage
        return known and tensor.contiguous and not tensor.peculiarity and tensor.numel() > 0

    def _storage(self, identifier: Any) -> Any:
        """The storage that a persistent id means: ("storage", class, key, device, elements)."""
        if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
            raise Misplaced(f"a storage named {brief(identifier)}")
        kind, key, elements = identifier[1], identifier[2], identifier[4]
        dtype = storage_dtype(kind)
        if dtype is None or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise Misplaced(f"a storage of {brief(kind)} named {brief(key)} with {brief(elements)} elements")
        found = self._storages.get(key)
        if found is None:
            name = f"{self.root}data/{key}"
            found = self._storages[key] = Storage(
                key,
                dtype,
                elements * ELEMENT_BYTES[dtype],
                partial(self.container.read_into, name),
                self.big_endian,
            )
            if self.container.member(name).size < found.size:
                raise damaged(
                    self.container.source,
                    f"the storage {name!r} has {self.container.member(name).size} bytes, its tensors need {found.size}",
                )
        if found.dtype != dtype:
            raise Misplaced(f"the storage {key!r} as {found.dtype} and as {dtype}")
        return found


def _root(container: ZipContainer) -> str:
    """What the names of the archive's own members begin with."""
    roots = [name.removesuffix(PICKLE) for name in container.members if name.rpartition("/")[2] == PICKLE]
    if not roots:
        raise damaged(container.source, f"it has no member {PICKLE!r}")
    return min(roots, key=lambda root: (root.count("/"), len(root)))
