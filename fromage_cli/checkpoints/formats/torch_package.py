"""A torch.package archive: pickles beside the code of their classes, of which only the pickles' tensors are read.

ROOT/PACKAGE/NAME.pkl name storages by number; ROOT/.data/NUMBER.storage holds their bytes.
Source: torch/package/package_exporter.py of PyTorch 1.9 to 2.13.
"""

from __future__ import annotations

import io
from typing import Any

from fromage_cli.checkpoints.formats.zip_container import ZipContainer
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.constructors import CONSTRUCTORS, parse_storage_id
from fromage_cli.checkpoints.pickles.pickle_stream import PickleStream
from fromage_cli.checkpoints.pickles.unpickling import PickledName, unpickle
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import Storage

DATA_FOLDER = ".data/"
"""Where an archive keeps what is no pickle of the package's own."""
MOST_PACKAGED_PICKLES = 1000
"""Pickles that are read: packages hold a handful."""


class TorchPackage:
    """One archive, whose storages are read when a tensor is."""

    def __init__(self, source: Source) -> None:
        """Read the archive's directory; raises InputError where it is cut off or damaged."""
        self.container = ZipContainer(source)
        self.root = next(name.partition(DATA_FOLDER)[0] for name in self.container.members if DATA_FOLDER in name)
        self._storages: dict[tuple[str, str], Storage] = {}

    def load(self) -> tuple[dict[str, Any], tuple[PickledName, ...]]:
        """Return what each pickle describes, by its path in the package with dots, and the names that they ask for."""
        found: dict[str, Any] = {}
        names: list[PickledName] = []
        members = [name for name in self.container.members if name.endswith(".pkl") and DATA_FOLDER not in name]
        allowance = Allowance(sum(self.container.member(member).stored for member in members[:MOST_PACKAGED_PICKLES]))
        for member in members[:MOST_PACKAGED_PICKLES]:
            pickled = self.container.read_pickle(member)
            stream = PickleStream(io.BytesIO(pickled), self.container.path, len(pickled), part=member)
            unpickled = unpickle(stream, CONSTRUCTORS, self._storage, allowance)
            place = member.removeprefix(self.root).removesuffix(".pkl").replace("/", ".")
            found[place] = unpickled.value
            names += unpickled.names
        return found, tuple(names)

    def _storage(self, identifier: Any) -> Storage:
        """Return the storage that a persistent id names."""
        key, dtype, size = parse_storage_id(identifier)
        storage = self.container.storage(f"{self.root}{DATA_FOLDER}{key}.storage", key, dtype, size)
        return self._storages.setdefault((key, dtype), storage)
