"""The stored bytes of tensors, a chunk at a time: read into a buffer that is used again, by a few threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from fromage_cli.checkpoints.checkpoint import Checkpoint, Span
from fromage_cli.checkpoints.storage.dtypes import WIDTHS
from fromage_cli.checkpoints.storage.files import FileVersion, explained, incomplete, opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 1 << 19
"""Elements reduced at a time: two megabytes in float32, so that calls are few and it stays in the cache."""
JOB = 8 * CHUNK
"""Elements that one thread reduces before the next takes over."""
THREADS = 4
"""More would wait for memory, not for each other."""
WAITING = 4
"""Jobs for each thread that are made before the first is done."""

Worker = TypeVar("Worker")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """Consecutive elements of one tensor."""

    name: str
    dtype: str
    begin: int
    """The first element's place in the tensor."""
    elements: int
    row: int
    """Elements of a row: no chunk begins in one and ends in another."""
    place: int
    """Which checkpoint of a series."""
    span: Span | None
    """Where they lie; None where the checkpoint's own reader has to make them."""
    read: Callable[[], NDArray[Any]] | None = None
    """Their bytes in memory: (bytes,) uint8."""

    @property
    def chunk(self) -> int:
        """Elements of a chunk: whole rows, or a part of one."""
        return CHUNK // self.row * self.row if self.row <= CHUNK else CHUNK

    def parts(self) -> Iterator[tuple[int, int]]:
        """Begin and end of each chunk, counted from the job's own beginning."""
        begin = 0
        while begin < self.elements:
            rest_of_row = self.row - (self.begin + begin) % self.row
            end = min(begin + (self.chunk if self.row <= CHUNK else min(CHUNK, rest_of_row)), self.elements)
            yield begin, end
            begin = end


def jobs_of(
    checkpoint: Checkpoint, names: Iterable[str], rows: Mapping[str, int] | None = None, place: int = 0
) -> Iterator[Job]:
    """The work on the named tensors, of as many elements as `rows` says to a row; files are looked at around it.

    Raises InputError when a file has changed since it was opened.
    """
    version: FileVersion | None = None
    for name in names:
        entry, span = checkpoint.entries[name], checkpoint.spans.get(name)
        if span is not None and span.version != version:
            span.version.check_unchanged()
            version = span.version
        if span is not None:
            span.check()
        row = max((rows or {}).get(name, 1), 1)
        whole = Job(name, entry.dtype, 0, entry.elements, row, place, span)
        if span is None:
            yield replace(whole, read=lambda name=name: _in_memory(checkpoint, name))  # type: ignore[misc]
        else:
            yield from _cut(whole)


def _in_memory(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    import torch

    stored: NDArray[Any] = checkpoint.tensor(name).reshape(-1).view(torch.uint8).numpy()
    return stored


def _cut(whole: Job) -> Iterator[Job]:
    """A tensor in jobs of whole rows, or of parts of one."""
    size = max(JOB // whole.row, 1) * whole.row if whole.row <= JOB else JOB
    for begin in range(0, whole.elements, size):
        yield replace(whole, begin=begin, elements=min(size, whole.elements - begin))


class Chunks:
    """The buffer of one thread."""

    def __init__(self) -> None:
        import numpy

        self._stored: NDArray[Any] = numpy.empty(CHUNK * max(WIDTHS.values()), numpy.uint8)

    def of(self, job: Job) -> Iterator[NDArray[Any]]:
        """The bytes of each chunk, (bytes,) uint8, valid until the next one.

        Raises InputError where the file ends too soon.
        """
        width = WIDTHS[job.dtype]
        if job.read is not None:
            whole = job.read()
            yield from (whole[width * begin : width * end] for begin, end in job.parts())
        elif job.span is not None and job.elements:
            start = job.span.begin + width * job.begin
            with opened(job.span.version.path) as file:
                for begin, end in job.parts():
                    part = Span(job.span.version, start + width * begin, start + width * end)
                    yield self._read(file.fileno(), part)

    def _read(self, descriptor: int, part: Span) -> NDArray[Any]:
        stored = self._stored[: part.end - part.begin]
        view, position = stored.data, part.begin
        with explained(part.version.path):
            while view:
                count = os.preadv(descriptor, [view], position)
                if count == 0:
                    raise incomplete(part.version.path, part.end, position)
                view, position = view[count:], position + count
        return stored


def threads() -> int:
    """How many threads read at once."""
    return min(THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def on_threads(
    jobs: Iterable[Job], make: Callable[[], Worker], work: Callable[[Worker, Job], Result]
) -> Iterator[tuple[Job, Result]]:
    """Each job and its result in order, so that sums do not depend on which thread was faster; a worker a thread.

    Jobs are made as they are needed. Raises InputError when a file has changed by the time its last job is done.
    """
    own = threading.local()

    def run(job: Job) -> Result:
        if not hasattr(own, "worker"):
            own.worker = make()
        return work(own.worker, job)

    pool = ThreadPoolExecutor(threads())
    try:
        yield from _in_order(iter(jobs), lambda job: pool.submit(run, job))
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(jobs: Iterator[Job], submit: Callable[[Job], Future[Result]]) -> Iterator[tuple[Job, Result]]:
    version: FileVersion | None = None
    waiting = deque((job, submit(job)) for job in islice(jobs, WAITING * threads()))
    while waiting:
        job, future = waiting.popleft()
        result = future.result()
        waiting.extend((following, submit(following)) for following in islice(jobs, 1))
        if job.span is not None:
            if version is not None and version != job.span.version:
                version.check_unchanged()
            version = job.span.version
        yield job, result
    if version is not None:
        version.check_unchanged()
