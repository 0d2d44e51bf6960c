"""Which checkpoints lie in a run's directory, in which state, and whether each is completely written."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.finding.directory import (
    SUFFIXES,
    has_usual_name,
    may_be_weights,
    weights_in,
    without_weights,
)
from fromage_cli.checkpoints.finding.series import check_complete, check_not_cut_off, numbered_steps, one_each
from fromage_cli.checkpoints.finding.trainer_files import optimizers_in
from fromage_cli.checkpoints.formats.sharded import is_index, read_index
from fromage_cli.checkpoints.names.library_files import METADATA
from fromage_cli.checkpoints.names.steps import SHARD, order_in_name
from fromage_cli.checkpoints.storage.files import names_in, status_of
from fromage_cli.errors import FromageError, InputError, UnsafeError
from fromage_cli.watching.fingerprint import state_of

ANY_SUFFIX = tuple(suffix for suffixes in SUFFIXES for suffix in suffixes)


@dataclass(frozen=True)
class Arrival:
    """A checkpoint in the directory, completely written or not."""

    path: Path
    """A file, or a directory that is itself a checkpoint."""
    weights: Path | None
    """None where there are shards without what says how they go together."""
    number: int | None
    """Its step, or its epoch where names have only epochs; None where its name tells neither."""
    counts: str
    """`step` or `epoch`."""
    files: tuple[Path, ...]
    state: str
    """Another one after each change of a file."""

    def is_unchanged(self) -> bool:
        """Return whether its files are those that they were, and in the same state."""
        try:
            files = _files_of(self.path, self.weights, self.number is not None)
            return state_of(self.path, files, reopened=True) == self.state
        except (FromageError, OSError):
            return False

    def why_incomplete(self) -> str:
        """Return what is missing from it, as a sentence, or nothing where it is whole.

        Files in PyTorch's older format and of msgpack do not say their length, and count as whole.
        """
        try:
            if self.weights is None:
                return without_weights(self.path).message
            check_complete(self.weights)
            for file in self.files:
                check_not_cut_off(file)
        except InputError as error:
            return error.message
        except UnsafeError:  # it is whole; the diagnosis refuses it
            pass
        return ""


def arrivals(directory: Path) -> list[Arrival]:
    """Return the checkpoints in a run's directory: numbered ones by step, one for each, then the others by name.

    Raises InputError where the directory cannot be read. What vanishes meanwhile is left out.
    """
    status_of(directory)
    found = []
    for path, weights, number, counts in _candidates(directory):
        try:
            files = _files_of(path, weights, number is not None)
            found.append(Arrival(path, weights, number, counts, files, state_of(path, files)))
        except (FromageError, OSError):
            continue
    return found


def _candidates(directory: Path) -> Iterator[tuple[Path, Path | None, int | None, str]]:
    """Yield path, weights, number and what it counts of each."""
    steps, _ = one_each(numbered_steps(directory))
    yield from ((step.path, step.weights, step.number, step.counts) for step in steps)
    numbered = {step.path for step in steps}
    own = weights_in(directory)
    if own is not None and not has_usual_name(own):
        own = None
    if own is not None:
        yield directory, own, None, ""
    for name in sorted(names_in(directory)):
        path = directory / name
        order = order_in_name(name if path.is_dir() else path.stem)
        if path in numbered or name.startswith("."):
            continue
        if path.is_dir():
            if order is not None and weights_in(path) is None and any(map(_is_shard, names_in(path))):
                yield path, None, order[1], order[0]
        elif order is None and path != own and may_be_weights(name, ANY_SUFFIX):
            yield path, path, None, ""


def _is_shard(name: str) -> bool:
    return name.endswith(".distcp") or SHARD.search(Path(name).stem) is not None


def _files_of(path: Path, weights: Path | None, numbered: bool) -> tuple[Path, ...]:
    """Return the files that a checkpoint is made of, in the order of their names.

    A directory of one step is all that lies in it. A run's directory with weights of its own holds other things too.
    """
    if path == weights:
        return (path,)
    if numbered or weights is None:
        return tuple(sorted(_below(path)))
    beside = {weights, *(file for one in optimizers_in(path) for file in ([one] if one.is_file() else _below(one)))}
    if is_index(weights):
        beside.update(read_index(weights).shards)
    elif weights.name == METADATA:
        beside.update(path / name for name in names_in(path) if name.endswith(".distcp"))
    else:
        beside.update(path / name for name in names_in(path) if has_usual_name(path / name))
    return tuple(sorted(file for file in beside if file.is_file()))


def _below(directory: Path) -> Iterator[Path]:
    """Yield every regular file in a directory and those in it, without hidden ones that are no metadata."""
    for place, _, names in os.walk(directory):
        files = (Path(place, name) for name in names if name == METADATA or not name.startswith("."))
        yield from (file for file in files if file.is_file())
