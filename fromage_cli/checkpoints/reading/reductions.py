"""Norms and magnitudes of every tensor of a checkpoint, at the speed at which its bytes can be read.

A few threads read safetensors files at given positions into small buffers, which are used again. Each thread widens
and reduces what it read while that is still in the cache. No tensor is ever held. Other formats go tensor by tensor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.chunks import ChunkReader, Job, jobs_of, on_threads
from fromage_cli.checkpoints.reading.widening import Widening
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS
from fromage_cli.theory.magnitudes import Magnitudes, Workspace, joined_norm

if TYPE_CHECKING:
    from numpy.typing import NDArray

Advance = Callable[[float, str], None]
"""Is told how many elements have been done, and of which file."""


@dataclass
class Rows:
    """What is known of a tensor by the norms of its rows along the first dimension."""

    norms: NDArray[Any]
    """(rows,) float64; nan where an entry is nan, else infinite where one is."""
    norm: float = 0.0
    """The Frobenius norm of the whole; nan and infinite likewise."""
    largest: float = 0.0
    """Largest absolute value of an entry; nan and infinite likewise."""


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
    found = dict.fromkeys(_chosen(checkpoint, names), Magnitudes())
    joined = dict.fromkeys(found, b"")
    work = partial(_Reducer.magnitudes, digested=digests is not None)
    for job, parts in on_threads(jobs_of(checkpoint, found), _Reducer, work):
        for digest, magnitudes in parts:
            joined[job.name] = hashlib.blake2b(joined[job.name] + digest).digest()
            found[job.name] = found[job.name].joined(magnitudes)
        advance(job.elements, being_read(checkpoint))
    if digests is not None:
        digests.update(joined)
    return found


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
    jobs = (job for index, one in enumerate(checkpoints) for job in jobs_of(one, found[index], index))
    for job, parts in on_threads(jobs, _Reducer, _Reducer.norms):
        norms = found[job.series_index]
        norms[job.name] = reduce(joined_norm, parts, norms[job.name])
        advance(job.elements, being_read(checkpoints[job.series_index]))
    return found


def measure_rows(
    checkpoint: Checkpoint, names: Iterable[str], advance: Advance = lambda elements, doing: None
) -> dict[str, Rows]:
    """Measure the norms of the rows of the named tensors, and their largest entries.

    Otherwise as `measure_magnitudes`.
    """
    import numpy

    entries = {name: checkpoint.entries[name] for name in _chosen(checkpoint, names)}
    found = {name: Rows(numpy.zeros(math.prod(entry.shape[:1]))) for name, entry in entries.items()}
    lengths = {name: max(entry.elements // max(len(found[name].norms), 1), 1) for name, entry in entries.items()}

    def work(worker: _Reducer, job: Job) -> tuple[NDArray[Any], list[float], float]:
        return worker.rows(job, lengths[job.name])

    for job, (norms, parts, largest) in on_threads(jobs_of(checkpoint, found), _Reducer, work):
        rows = found[job.name]
        _join(rows.norms, norms, job.begin // lengths[job.name])
        rows.norm = reduce(joined_norm, parts, rows.norm)
        rows.largest = _largest(rows.largest, largest)
        advance(job.elements, being_read(checkpoint))
    return found


def being_read(checkpoint: Checkpoint) -> str:
    """Say which file is read, for the person who waits."""
    return f"reading {PurePath(checkpoint.place).name}"


def _join(norms: NDArray[Any], found: NDArray[Any], first: int) -> None:
    """Take norms of rows in, from the `first` row on, of which norms may hold that of another part already."""
    if len(found):
        found[0] = joined_norm(norms[first], found[0])
        norms[first : first + len(found)] = found


def _largest(one: float, other: float) -> float:
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


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

    def magnitudes(self, job: Job, digested: bool) -> list[tuple[bytes, Magnitudes]]:
        """Return the digest of each chunk's bytes, which is empty where none is wanted, and its magnitudes."""
        return [
            (
                hashlib.blake2b(stored.data).digest() if digested else b"",
                self._workspace.magnitudes(self._widening.widened(stored, job.dtype)),
            )
            for stored in self._reader.read(job)
        ]

    def norms(self, job: Job) -> list[float]:
        return [self._workspace.norm(entries) for entries in self._entries(job)]

    def rows(self, job: Job, length: int) -> tuple[NDArray[Any], list[float], float]:
        """Return the norms of the rows that the job touches, the norm of each chunk, and the largest entry."""
        import numpy

        first = job.begin // length
        norms, parts, most = numpy.zeros(-(-(job.begin + job.elements) // length) - first), [], 0.0
        begin = job.begin
        for entries in self._entries(job):
            found, norm, largest = self._workspace.rows(entries, begin, length)
            _join(norms, found, begin // length - first)
            most = _largest(most, largest)
            parts.append(norm)
            begin += entries.size
        return norms, parts, most

    def _entries(self, job: Job) -> Iterator[NDArray[Any]]:
        for stored in self._reader.read(job):
            yield self._widening.widened(stored, job.dtype)
