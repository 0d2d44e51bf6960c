"""A PyTorch file in the ZIP format: one pickle of places, and a member for every storage.

ROOT/data.pkl names storages by key; ROOT/data/KEY holds their bytes, in the order that ROOT/byteorder tells. Archives
of TorchScript look the same. Source: torch/serialization.py and caffe2/serialize/inline_container.h.
"""

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
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, parse_storage_id
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.unpickling import PickledName, Unpickled, unpickle
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import OutsideStorage, Storage, StoredTensor

PICKLE = "data.pkl"


class TorchArchive:
    """One archive, whose storages are read when a tensor is."""

    def __init__(self, source: Source) -> None:
        """Read the archive's directory; raises InputError where it is cut off or damaged."""
        self.container = ZipContainer(source)
        roots = [name.removesuffix(PICKLE) for name in self.container.members if name.rpartition("/")[2] == PICKLE]
        if not roots:
            raise damaged(source, f"it has no member {PICKLE!r}")
        self.root = min(roots, key=lambda root: (root.count("/"), len(root)))
        """What the names of the archive's own members begin with."""
        self._storages: dict[str, Storage] = {}
        order = f"{self.root}byteorder"
        self.big_endian = order in self.container.members and self.container.read(order, 16) == b"big"

    def load(self, allowance: Allowance | None = None) -> Unpickled:
        """Return what the pickle describes, within what it may take; tensors are places in the archive."""
        name = f"{self.root}{PICKLE}"
        pickled = self.container.read_pickle(name)
        allowance = allowance or Allowance(self.container.member(name).stored)
        stream = PickleStream(io.BytesIO(pickled), self.container.path, len(pickled), part=name)
        nested: list[PickledName] = []
        constructors = with_nested(CONSTRUCTORS, self.container.path, allowance, nested)
        unpickled = unpickle(stream, constructors, self._storage, allowance)
        return replace(unpickled, names=(*unpickled.names, *nested))

    def spans(self, tensors: Mapping[str, StoredTensor]) -> dict[str, Span]:
        """Return where the elements of those tensors lie in the file that are there as they are."""
        version = self.container.source.version
        if version is None or self.big_endian or sys.byteorder == "big":
            return {}
        members = {
            name: f"{self.root}data/{storage.key}"
            for name, tensor in tensors.items()
            if (storage := tensor.storage) is not None and self._storages.get(storage.key) is storage
            if tensor.contiguous and not tensor.peculiarity and tensor.numel()
        }
        positions = self.container.positions(dict.fromkeys(members.values()))
        spans = {}
        for name, member in members.items():
            if (position := positions.get(member)) is not None:
                begin, end = tensors[name].span
                verify = partial(self.container.verify, member)
                spans[name] = Span(version, position + begin, position + end, verify)
        return spans

    def _storage(self, identifier: Any) -> Storage:
        """Return the storage that a persistent id names."""
        key, dtype, size = parse_storage_id(identifier)
        name = f"{self.root}data/{key}"
        if key not in self._storages:
            self._storages[key] = self.container.storage(name, key, dtype, size, self.big_endian)
        found = self._storages[key]
        if found.dtype != dtype:
            raise OutsideStorage(f"the storage {key!r} as {found.dtype} and as {dtype}")
        return found
