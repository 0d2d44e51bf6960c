"""Norms and magnitudes of every tensor of a checkpoint, at the speed at which its bytes can be read.

Safetensors files are read at given positions into small buffers that are used again, by a few threads, each widening
and reducing what it read while that is still in the cache: no tensor is ever held. Other formats go tensor by tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.reading.chunks import CHUNK, Chunks, Job, jobs_of, on_threads
from fromage_cli.checkpoints.reading.widening import WIDTHS, Widening
from fromage_cli.theory.magnitudes import Magnitudes, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

Advance = Callable[[float], None]
"""Is told how many elements have been done."""


def measure_magnitudes(
    checkpoint: Checkpoint, names: Iterable[str] | None = None, advance: Advance = lambda elements: None
) -> dict[str, Magnitudes]:
    """The magnitudes of the named tensors, all of them without names, in that order.

    Tensors of a dtype that is not in WIDTHS are left out.
    Raises InputError when a file is cut off or changes meanwhile.
    """
    found = dict.fromkeys(_chosen(checkpoint, names), Magnitudes())
    for job, magnitudes in on_threads(jobs_of(checkpoint, found), _Reducer, _Reducer.magnitudes):
        found[job.name] = found[job.name].joined(magnitudes)
        advance(magnitudes.elements)
    return found


def measure_norms(
    checkpoints: Sequence[Checkpoint], names: Iterable[str] | None = None, advance: Advance = lambda elements: None
) -> list[dict[str, float]]:
    """The Frobenius norms of the named tensors in each checkpoint of a series, and nothing else.

    A norm is nan where an entry is nan, else infinite where one is. Threads go from one checkpoint to the next.
    Otherwise as `measure_magnitudes`.
    """
    wanted = None if names is None else list(names)
    found = [dict.fromkeys(_chosen(checkpoint, wanted), 0.0) for checkpoint in checkpoints]
    jobs = (job for place, one in enumerate(checkpoints) for job in jobs_of(one, found[place], place=place))
    for job, norm in on_threads(jobs, _Reducer, _Reducer.norm):
        norms = found[job.place]
        norms[job.name] = math.nan if math.isnan(norm) else math.hypot(norms[job.name], norm)
        advance(job.elements)
    return found


def measure_rows(
    checkpoint: Checkpoint, names: Iterable[str], advance: Advance = lambda elements: None
) -> dict[str, tuple[Magnitudes, NDArray[Any]]]:
    """The magnitudes of the named tensors, and the norm of each row along their first dimension: (rows,) float64.

    Otherwise as `measure_magnitudes`.
    """
    import numpy

    chosen = _chosen(checkpoint, names)
    rows = {name: numpy.zeros(math.prod(checkpoint.entries[name].shape[:1])) for name in chosen}
    found = dict.fromkeys(chosen, Magnitudes())
    lengths = {name: checkpoint.entries[name].elements // max(len(rows[name]), 1) for name in chosen}
    for job, (magnitudes, norms) in on_threads(jobs_of(checkpoint, found, lengths), _Reducer, _Reducer.rows):
        found[job.name] = found[job.name].joined(magnitudes)
        first = job.begin // max(job.row, 1)
        part = rows[job.name][first : first + len(norms)]
        numpy.hypot(part, norms, out=part)
        advance(job.elements)
    return {name: (found[name], rows[name]) for name in chosen}


def _chosen(checkpoint: Checkpoint, names: Iterable[str] | None) -> list[str]:
    """The named tensors whose bytes can be read."""
    wanted = checkpoint.entries if names is None else names
    return [name for name in wanted if name in checkpoint.entries and checkpoint.entries[name].dtype in WIDTHS]


class _Reducer:
    """The buffers of one thread."""

    def __init__(self) -> None:
        self._chunks = Chunks()
        self._widening = Widening(CHUNK)
        self._workspace = Workspace(CHUNK)

    def magnitudes(self, job: Job) -> Magnitudes:
        found = (self._workspace.magnitudes(entries) for entries in self._entries(job))
        return reduce(Magnitudes.joined, found, Magnitudes())

    def norm(self, job: Job) -> float:
        norms = [self._workspace.norm(entries) for entries in self._entries(job)]
        return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)

    def rows(self, job: Job) -> tuple[Magnitudes, NDArray[Any]]:
        """The magnitudes, and the norms of the rows that the job touches."""
        import numpy

        whole, norms = Magnitudes(), numpy.zeros(-(-(job.begin % job.row + job.elements) // job.row))
        done = job.begin % job.row
        for entries in self._entries(job, ordered=True):
            whole = whole.joined(self._workspace.magnitudes(entries))
            first = done // job.row
            found = self._workspace.row_norms(entries.reshape(-1, min(job.row, entries.size)))
            part = norms[first : first + len(found)]
            numpy.hypot(part, found, out=part)
            done += entries.size
        return whole, norms

    def _entries(self, job: Job, ordered: bool = False) -> Iterator[NDArray[Any]]:
        for stored in self._chunks.of(job):
            yield self._widening.widened(stored, job.dtype, ordered)
