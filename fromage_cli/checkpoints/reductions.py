"""Magnitudes of every tensor of a checkpoint, at the speed at which its bytes can be read.

Safetensors files are read at given positions into small buffers that are used again, by a few threads, each widening
and reducing what it read while that is still in the cache: no tensor is ever held. Other formats go tensor by tensor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Checkpoint, Span
from fromage_cli.checkpoints.files import explained, opened
from fromage_cli.checkpoints.safetensors_header import incomplete
from fromage_cli.checkpoints.widening import WIDTHS, Widening
from fromage_cli.theory.magnitudes import Magnitudes, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 1 << 18
"""Elements reduced at a time: a megabyte in float32, so that calls are few and most of it stays in the cache."""
JOB = 16 * CHUNK
"""Elements that one thread reduces before the next takes over."""
THREADS = 4
"""More would wait for memory, not for each other."""


def measure_magnitudes(
    checkpoint: Checkpoint, names: Iterable[str] | None = None, advance: Callable[[float], None] = lambda elements: None
) -> dict[str, Magnitudes]:
    """The magnitudes of the named tensors, all of them without names, in that order.

    `advance` is told the elements done. Tensors of a dtype that is not in WIDTHS are left out.
    Raises InputError when a file is cut off or changes meanwhile.
    """
    chosen = [name for name in (checkpoint.entries if names is None else names) if _known(checkpoint, name)]
    found: dict[str, Magnitudes] = dict.fromkeys(chosen, Magnitudes())
    for name, magnitudes in _of_spans(checkpoint, [name for name in chosen if name in checkpoint.spans]):
        found[name] = found[name].joined(magnitudes)
        advance(magnitudes.elements)
    reducer = None
    for name in chosen:
        if name not in checkpoint.spans:
            reducer = reducer or _Reducer()
            found[name] = reducer.of_tensor(checkpoint, name)
            advance(found[name].elements)
    return found


def threads() -> int:
    """How many threads read at once."""
    return min(THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _known(checkpoint: Checkpoint, name: str) -> bool:
    return checkpoint.entries[name].dtype in WIDTHS


@dataclass(frozen=True)
class _Job:
    """Consecutive elements of one tensor in an open file."""

    name: str
    dtype: str
    span: Span
    descriptor: int


def _of_spans(checkpoint: Checkpoint, names: list[str]) -> Iterator[tuple[str, Magnitudes]]:
    """The magnitudes of every job in order, so that sums do not depend on which thread was faster."""
    if not names:
        return
    own = threading.local()

    def work(job: _Job) -> tuple[str, Magnitudes]:
        if not hasattr(own, "reducer"):
            own.reducer = _Reducer()
        return job.name, own.reducer.of_span(job)

    for version, group in groupby(names, key=lambda name: checkpoint.spans[name].version):
        version.check_unchanged()
        with ExitStack() as stack:
            file = stack.enter_context(opened(version.path))
            pool = ThreadPoolExecutor(threads())
            stack.callback(pool.shutdown, cancel_futures=True)
            yield from pool.map(work, list(_jobs(checkpoint, group, file.fileno())))
        version.check_unchanged()


def _jobs(checkpoint: Checkpoint, names: Iterable[str], descriptor: int) -> Iterator[_Job]:
    for name in names:
        span, dtype = checkpoint.spans[name], checkpoint.entries[name].dtype
        for span_part in _parts(span, JOB * WIDTHS[dtype]):
            yield _Job(name, dtype, span_part, descriptor)


def _parts(span: Span, size: int) -> Iterator[Span]:
    for begin in range(span.begin, span.end, size):
        yield Span(span.version, begin, min(begin + size, span.end))


class _Reducer:
    """The buffers of one thread."""

    def __init__(self) -> None:
        import numpy

        self._stored: NDArray[Any] = numpy.empty(CHUNK * max(WIDTHS.values()), numpy.uint8)
        self._widening = Widening(CHUNK)
        self._workspace = Workspace(CHUNK)

    def of_span(self, job: _Job) -> Magnitudes:
        parts = _parts(job.span, CHUNK * WIDTHS[job.dtype])
        return reduce(Magnitudes.joined, (self._chunk(self._read(job, part), job.dtype) for part in parts))

    def of_tensor(self, checkpoint: Checkpoint, name: str) -> Magnitudes:
        import torch

        dtype = checkpoint.entries[name].dtype
        stored = checkpoint.tensor(name).reshape(-1).view(torch.uint8).numpy()
        size = CHUNK * WIDTHS[dtype]
        chunks = (stored[begin : begin + size] for begin in range(0, len(stored), size))
        return reduce(Magnitudes.joined, (self._chunk(chunk, dtype) for chunk in chunks), Magnitudes())

    def _read(self, job: _Job, part: Span) -> NDArray[Any]:
        stored = self._stored[: part.end - part.begin]
        view, position = stored.data, part.begin
        with explained(part.version.path):
            while view:
                count = os.preadv(job.descriptor, [view], position)
                if count == 0:
                    raise incomplete(part.version.path, part.end, position)
                view, position = view[count:], position + count
        return stored

    def _chunk(self, stored: NDArray[Any], dtype: str) -> Magnitudes:
        return self._workspace.magnitudes(self._widening.widened(stored, dtype))
