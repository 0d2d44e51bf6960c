"""A torch.package archive: pickles beside the code of their classes, of which only the pickles' tensors are read.

ROOT/PACKAGE/NAME.pkl name storages by number; ROOT/.data/NUMBER.storage holds their bytes.
Source: torch/package/package_exporter.py of PyTorch 1.9 to 2.13.
"""

from __future__ import annotations

import io
from functools import partial
from typing import Any

from fromage_cli.checkpoints.formats.zip_container import ZipContainer
from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, storage_dtype
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.unpickling import PickledName, unpickle
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES, Misplaced, Storage

DATA = ".data/"
MOST = 1000
"""Pickles that are read."""


class TorchPackage:
    """One archive, whose storages are read when a tensor is."""

    def __init__(self, source: Source) -> None:
        """Read the archive's directory; raises InputError where it is cut off or damaged."""
        self.container = ZipContainer(source)
        self.root = next(name.partition(DATA)[0] for name in self.container.members if DATA in name)
        self._storages: dict[tuple[str, str], Storage] = {}

    def load(self) -> tuple[dict[str, Any], tuple[PickledName, ...]]:
        """What each pickle describes, by its path in the package with dots, and the names that they ask for."""
        found: dict[str, Any] = {}
        names: list[PickledName] = []
        members = [name for name in self.container.members if name.endswith(".pkl") and DATA not in name]
        allowance = Allowance(sum(self.container.member(member).stored for member in members[:MOST]))
        for member in members[:MOST]:
            pickled = self.container.read_pickle(member)
            stream = PickleStream(io.BytesIO(pickled), self.container.path, len(pickled), part=member)
            unpickled = unpickle(stream, CONSTRUCTORS, self._storage, allowance)
            place = member.removeprefix(self.root).removesuffix(".pkl").replace("/", ".")
            found[place] = unpickled.value
            names += unpickled.names
        return found, tuple(names)

    def _storage(self, identifier: Any) -> Storage:
        """The storage that a persistent id means: ("storage", class, number, device, elements)."""
        if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
            raise Misplaced(f"a storage named {brief(identifier)}")
        dtype, key, elements = storage_dtype(identifier[1]), identifier[2], identifier[4]
        if dtype is None or type(key) not in (int, str) or type(elements) is not int or not 0 <= elements < 2**60:
            raise Misplaced(f"a storage named {brief(key)} with {brief(elements)} elements")
        name, size = f"{self.root}{DATA}{key}.storage", elements * ELEMENT_BYTES[dtype]
        if self.container.member(name).size < size:
            raise Misplaced(f"{size} bytes of a storage of {self.container.member(name).size}")
        read_into = partial(self.container.read_into, name)
        return self._storages.setdefault((name, dtype), Storage(str(key), dtype, size, read_into))
