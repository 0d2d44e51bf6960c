"""A torch.package archive: pickles beside the code of their classes, of which only the pickles' tensors are read.

ROOT/PACKAGE/NAME.pkl name storages by number; ROOT/.data/NUMBER.storage holds their bytes.
Source: torch/package/package_exporter.py of PyTorch 1.9 to 2.13.
"""

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


def load_package(source: Source) -> tuple[dict[str, Any], tuple[PickledName, ...]]:
    """Return what each pickle describes, by its path in the package with dots, and the names that they ask for.

    Storages are read when a tensor is. Raises InputError where the archive's directory is cut off or damaged.
    """
    container = ZipContainer(source)
    root = next(name.partition(DATA_FOLDER)[0] for name in container.members if DATA_FOLDER in name)
    storages: dict[tuple[str, str], Storage] = {}

    def storage_of(identifier: Any) -> Storage:
        key, dtype, size = parse_storage_id(identifier)
        storage = container.storage(f"{root}{DATA_FOLDER}{key}.storage", key, dtype, size)
        return storages.setdefault((key, dtype), storage)

    found: dict[str, Any] = {}
    names: list[PickledName] = []
    members = [name for name in container.members if name.endswith(".pkl") and DATA_FOLDER not in name]
    members = members[:MOST_PACKAGED_PICKLES]
    allowance = Allowance(sum(container.member(member).stored for member in members))
    for member in members:
        pickled = container.read_pickle(member)
        stream = PickleStream(io.BytesIO(pickled), container.path, len(pickled), part=member)
        unpickled = unpickle(stream, CONSTRUCTORS, storage_of, allowance)
        found[member.removeprefix(root).removesuffix(".pkl").replace("/", ".")] = unpickled.value
        names += unpickled.names
    return found, tuple(names)
