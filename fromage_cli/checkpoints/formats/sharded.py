"""Sharded checkpoints: an index that names the file of every tensor, each in the index's own directory."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Contents, Copy, Replica
from fromage_cli.checkpoints.names.library_files import MOST_SHARDS
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.storage.files import FileVersion, quoted
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.checkpoints.storage.path_confinement import confined_path
from fromage_cli.counting import counted
from fromage_cli.errors import InputError


@dataclass(frozen=True)
class Index:
    """A checked index: every shard exists."""

    files: Mapping[str, Path]  # tensor name -> its shard
    metadata: Mapping[str, str]

    @property
    def shards(self) -> tuple[Path, ...]:
        """Return the shards, each once, in the order in which the index names them."""
        return tuple(dict.fromkeys(self.files.values()))


def is_index(path: Path) -> bool:
    """Return whether a file is an index by its name."""
    return path.name.endswith(".index.json")


def read_sharded(path: Path, read_file: Callable[[Path, Allowance], Contents]) -> Contents:
    """Read an index and the structure of its shards, each by `read_file`; their pickles share one allowance."""
    index = read_index(path)
    allowance = Allowance(sum(FileVersion.of(shard).size for shard in index.shards))
    shards = {shard: read_file(shard, allowance) for shard in index.shards}
    for name, shard in index.files.items():
        if name not in shards[shard].entries:
            raise InputError(
                f"{quoted(path)} says that tensor {name!r} is in {shard.name!r}, but it is not there.",
                hint="Index and shards come from different saves. Copy all of them again.",
            )
    extra = [name for contents in shards.values() for name in contents.entries if name not in index.files]
    notes = [note for contents in shards.values() for note in contents.notes]
    if extra:
        notes.append(f"Left out {counted(len(extra), 'tensor')} missing from the index: {listed(extra)}.")
    tied = (
        tuple(name for name in group if index.files.get(name) == shard)
        for shard, contents in shards.items()
        for group in contents.tied
    )
    torch_shards = any(contents.format.startswith("torch") for contents in shards.values())
    return Contents(
        format="torch-sharded" if torch_shards else "safetensors-sharded",
        entries={name: shards[shard].entries[name] for name, shard in index.files.items()},
        find=lambda name: shards[index.files[name]].find(name),
        metadata=index.metadata,
        step=step_in_metadata(index.metadata),
        notes=tuple(notes),
        tied=tuple(group for group in tied if len(group) > 1),
        spans={name: shards[file].spans[name] for name, file in index.files.items() if name in shards[file].spans},
        find_replicas=lambda: in_several_shards(index, shards),
    )


def in_several_shards(index: Index, shards: Mapping[Path, Contents]) -> tuple[Replica, ...]:
    """Return the tensors that other shards hold beside the one that the index names."""
    further: dict[str, list[Path]] = {}
    for shard, contents in shards.items():
        for name in contents.entries:
            if index.files.get(name, shard) != shard:
                further.setdefault(name, []).append(shard)
    return tuple(
        Replica(name, tuple(Copy(shards[shard].stored(name), (shard,)) for shard in (index.files[name], *others)))
        for name, others in further.items()
    )


def read_index(path: Path) -> Index:
    """Read an index and check its shards' paths; a path out of its directory raises UnsafeError."""
    table = read_object(path)
    names = table.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise InputError(
            f"{quoted(path)} is not an index of shards: it has no 'weight_map' from tensor names to file names.",
            hint="Name the index or the directory that from_pretrained reads.",
        )
    if (count := len(set(names.values()))) > MOST_SHARDS:
        raise InputError(
            f"{quoted(path)} names {count} shards, but at most {MOST_SHARDS} are read.",
            hint="The index is damaged, or the model has to be saved in larger shards.",
        )
    places = {file: confined_path(path, file) for file in dict.fromkeys(names.values())}
    check_present(path, places.values())
    metadata = table.get("metadata")
    return Index(
        {name: places[file] for name, file in names.items()}, texts_in(metadata if isinstance(metadata, dict) else {})
    )


def check_present(index: Path, shards: Collection[Path]) -> None:
    """Raise InputError when a shard that an index names is missing."""
    if absent := [str(shard.relative_to(index.parent)) for shard in shards if not shard.exists()]:
        raise InputError(
            f"{quoted(index)} is incomplete: {len(absent)} of {len(shards)} shards are missing: {listed(absent)}.",
            hint=f"Copy the missing shards beside {index.name}.",
            details=absent,
        )


def texts_in(saved: Mapping[str, object]) -> dict[str, str]:
    """Return the texts and numbers among saved values, as texts."""
    return {name: str(value) for name, value in saved.items() if isinstance(value, str | int | float)}
