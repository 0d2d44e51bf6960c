"""Norms and magnitudes of every tensor of a checkpoint, at the speed at which its bytes can be read.

A few threads read safetensors files at given positions into small buffers, which are used again. Each thread widens
and reduces what it read while that is still in the cache. No tensor is ever held. Other formats go tensor by tensor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.chunks import ChunkReader, Job, jobs_of, on_threads
from fromage_cli.checkpoints.reading.known_numbers import Number, recall, remember
from fromage_cli.checkpoints.reading.widening import Widening
from fromage_cli.checkpoints.storage.sharing import are_shared
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS
from fromage_cli.theory.magnitudes import Magnitudes, Workspace, joined_norm

if TYPE_CHECKING:
    from numpy.typing import NDArray

Advance = Callable[[float, str], None]
"""Is told how many elements have been done, and of which file."""


@dataclass(frozen=True)
class Rows:
    """What is known of a tensor and of its rows along the first dimension."""

    norms: NDArray[Any]
    """(rows,) float64; nan where an entry is nan, else infinite where one is."""
    magnitudes: Magnitudes


def measure_magnitudes(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    advance: Advance = lambda elements, doing: None,
    digests: dict[str, bytes] | None = None,
) -> dict[str, Magnitudes]:
    """Measure the magnitudes of the named tensors, all of them without names, in that order.

    Tensors of a dtype that is not in WIDTHS are left out. `digests` takes a digest of each one's bytes, which does not
    depend on the format. Raises InputError when a file is cut off or changes meanwhile.
    """
    chosen = _chosen(checkpoint, names)
    matrices = [name for name in chosen if are_shared() and len(checkpoint.entries[name].shape) > 1]
    return _measure(checkpoint, chosen, matrices, advance, digests)[0]


def measure_norms(
    checkpoints: Sequence[Checkpoint],
    names: Iterable[str] | None = None,
    advance: Advance = lambda elements, doing: None,
) -> list[dict[str, float]]:
    """Measure the Frobenius norms of the named tensors in each checkpoint of a series, and nothing else.

    A norm is nan where an entry is nan, else infinite where one is. Threads go from one checkpoint to the next.
    Otherwise as `measure_magnitudes`.
    """
    wanted = None if names is None else list(names)
    found = [dict.fromkeys(_chosen(checkpoint, wanted), 0.0) for checkpoint in checkpoints]
    read = [_known(float, checkpoint, norms, advance) for checkpoint, norms in zip(checkpoints, found, strict=True)]
    unread = [[name for name in norms if name not in known] for norms, known in zip(found, read, strict=True)]
    jobs = (job for index, one in enumerate(checkpoints) for job in jobs_of(one, unread[index], index))
    for job, parts in on_threads(jobs, _Reducer, _Reducer.norms):
        norms = found[job.series_index]
        norms[job.name] = reduce(joined_norm, parts, norms[job.name])
        advance(job.elements, being_read(checkpoints[job.series_index]))
    for checkpoint, norms, known in zip(checkpoints, found, read, strict=True):
        norms.update(known)
        remember(norms, checkpoint)
    return found


def measure_rows(
    checkpoint: Checkpoint, names: Iterable[str], advance: Advance = lambda elements, doing: None
) -> dict[str, Rows]:
    """Measure the magnitudes of the named tensors, and the norms of their rows. Otherwise as `measure_magnitudes`."""
    chosen = _chosen(checkpoint, names)
    found = _known(Rows, checkpoint, chosen, advance)
    unread = [name for name in chosen if name not in found]
    found |= _measure(checkpoint, unread, unread, advance)[1]
    return {name: found[name] for name in chosen}


def _measure(
    checkpoint: Checkpoint,
    names: Sequence[str],
    in_rows: Sequence[str],
    advance: Advance,
    digests: dict[str, bytes] | None = None,
) -> tuple[dict[str, Magnitudes], dict[str, Rows]]:
    """Return the magnitudes of the named tensors, and the rows of some of them."""
    import numpy

    found = dict.fromkeys(names, Magnitudes())
    joined = dict.fromkeys(found, b"")
    shapes = {name: checkpoint.entries[name].shape for name in in_rows}
    lengths = {name: max(math.prod(shape[1:]), 1) for name, shape in shapes.items()}
    rows = {name: numpy.zeros(math.prod(shape[:1])) for name, shape in shapes.items()}

    def work(worker: _Reducer, job: Job) -> tuple[list[tuple[bytes, Magnitudes]], NDArray[Any]]:
        return worker.magnitudes(job, digests is not None, lengths.get(job.name))

    for job, (parts, norms) in on_threads(jobs_of(checkpoint, found), _Reducer, work):
        for digest, magnitudes in parts:
            joined[job.name] = hashlib.blake2b(joined[job.name] + digest).digest()
            found[job.name] = found[job.name].joined(magnitudes)
        if job.name in rows:
            _join(rows[job.name], norms, job.begin // lengths[job.name])
        advance(job.elements, being_read(checkpoint))
    if digests is not None:
        digests.update(joined)
    by_rows = {name: Rows(norms, found[name]) for name, norms in rows.items()}
    remember(by_rows, checkpoint)
    remember({name: magnitudes.norm for name, magnitudes in found.items()}, checkpoint)
    return found, by_rows


def _known(kind: type[Number], checkpoint: Checkpoint, names: Iterable[str], advance: Advance) -> dict[str, Number]:
    """Return what was found of the named tensors before, where reads are shared."""
    found = recall(kind, names, checkpoint)
    for name in found:
        advance(checkpoint.entries[name].elements, being_read(checkpoint))
    return found


def being_read(checkpoint: Checkpoint) -> str:
    """Say which file is read, for the person who waits."""
    return f"reading {PurePath(checkpoint.place).name}"


def _join(norms: NDArray[Any], found: NDArray[Any], first: int) -> None:
    """Take norms of rows in, from the `first` row on, of which norms may hold that of another part already."""
    if len(found):
        found[0] = joined_norm(norms[first], found[0])
        norms[first : first + len(found)] = found


def _chosen(checkpoint: Checkpoint, names: Iterable[str] | None) -> list[str]:
    """Return the named tensors whose bytes can be read."""
    wanted = checkpoint.entries if names is None else names
    return [name for name in wanted if name in checkpoint.entries and checkpoint.entries[name].dtype in WIDTHS]


class _Reducer:
    """The buffers of one thread."""

    def __init__(self) -> None:
        self._reader = ChunkReader()
        self._widening = Widening(CHUNK)
        self._workspace = Workspace(CHUNK)

    def magnitudes(
        self, job: Job, digested: bool, length: int | None
    ) -> tuple[list[tuple[bytes, Magnitudes]], NDArray[Any]]:
        """Return the digest of each chunk's bytes, where one is wanted, its magnitudes, and the norms of the rows.

        `length`: entries of a row; None where rows are not wanted.
        """
        import numpy

        first = 0 if length is None else job.begin // length
        count = 0 if length is None else -(-(job.begin + job.elements) // length) - first
        parts, norms, begin = [], numpy.zeros(count), job.begin
        for stored in self._reader.read(job):
            entries = self._widening.widened(stored, job.dtype)
            digest = hashlib.blake2b(stored.data).digest() if digested else b""
            parts.append((digest, self._workspace.magnitudes(entries)))
            if length is not None:
                _join(norms, self._workspace.rows(entries, begin, length), begin // length - first)
            begin += entries.size
        return parts, norms

    def norms(self, job: Job) -> list[float]:
        chunks = self._reader.read(job)
        return [self._workspace.norm(self._widening.widened(stored, job.dtype)) for stored in chunks]
