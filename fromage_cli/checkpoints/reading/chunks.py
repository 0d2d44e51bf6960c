"""The stored bytes of tensors, a chunk at a time: read into a buffer that is used again, by a few threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from fromage_cli.checkpoints.checkpoint import Checkpoint, Span
from fromage_cli.checkpoints.reading.arrays import CHUNK, stored_bytes
from fromage_cli.checkpoints.storage.files import FileVersion, incomplete, opened
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS

if TYPE_CHECKING:
    from numpy.typing import NDArray

JOB = 64 * CHUNK
"""Elements that one thread reduces before the next takes over."""
THREADS = 4
"""More would wait for memory, not for each other."""
WAITING = 4
"""Jobs for each thread that are made before the first is done."""

Worker = TypeVar("Worker")
Result = TypeVar("Result")
AnyJob = TypeVar("AnyJob", bound="Job")


@dataclass(frozen=True)
class Job:
    """Consecutive elements of one tensor."""

    name: str
    dtype: str
    begin: int
    """The first element's place in the tensor."""
    elements: int
    series_index: int
    """Which checkpoint of a series."""
    span: Span | None
    """Where they lie; None where the checkpoint's own reader has to make them."""
    read: Callable[[], NDArray[Any]] | None = None
    """Their bytes in memory: (bytes,) uint8."""

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield begin and end of each chunk, counted from the job's own beginning, which is that of a chunk."""
        for begin in range(0, self.elements, CHUNK):
            yield begin, min(begin + CHUNK, self.elements)


def jobs_of(checkpoint: Checkpoint, names: Iterable[str], series_index: int = 0) -> Iterator[Job]:
    """Yield the work on the named tensors. Files are looked at between one and the next.

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
        whole = Job(name, entry.dtype, 0, entry.elements, series_index, span)
        if span is None:
            yield replace(whole, read=partial(stored_bytes, checkpoint, name))
            continue
        for begin in range(0, entry.elements, JOB):
            yield replace(whole, begin=begin, elements=min(JOB, entry.elements - begin))


class ChunkReader:
    """The buffer of one thread."""

    def __init__(self) -> None:
        import numpy

        self._stored: NDArray[Any] = numpy.empty(CHUNK * max(WIDTHS.values()), numpy.uint8)

    def read(self, job: Job) -> Iterator[NDArray[Any]]:
        """Yield the bytes of each chunk, (bytes,) uint8, valid until the next one.

        Raises InputError where the file ends too soon.
        """
        width = WIDTHS[job.dtype]
        if job.read is not None:
            whole = job.read()
            yield from (whole[width * begin : width * end] for begin, end in job.parts())
        elif job.span is not None and job.elements:
            with opened(job.span.version.path) as file:
                for begin, end in job.parts():
                    stored = self._stored[: width * (end - begin)]
                    fill(file, job.span, width * (job.begin + begin), stored.data)
                    yield stored


def fill(file: BufferedReader, span: Span, begin: int, view: memoryview) -> None:
    """Fill a buffer with the bytes of a tensor, from its byte `begin` on; InputError where the file ends too soon."""
    position, end = span.begin + begin, span.begin + begin + len(view)
    while view:
        count = os.preadv(file.fileno(), [view], position)
        if count == 0:
            raise incomplete(span.version.path, end, position)
        view, position = view[count:], position + count


def threads() -> int:
    """Return how many threads read at once."""
    return min(THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def on_threads(
    jobs: Iterable[AnyJob], make: Callable[[], Worker], work: Callable[[Worker, AnyJob], Result]
) -> Iterator[tuple[AnyJob, Result]]:
    """Yield each job and its result in order, so that sums do not depend on which thread was faster; a worker a thread.

    Jobs are made as they are needed. Raises InputError when a file has changed by the time its last job is done.
    """
    own = threading.local()

    def run(job: AnyJob) -> Result:
        if not hasattr(own, "worker"):
            own.worker = make()
        return work(own.worker, job)

    unsent, version = iter(jobs), None
    pool = ThreadPoolExecutor(threads())
    try:
        waiting = deque((job, pool.submit(run, job)) for job in islice(unsent, WAITING * threads()))
        while waiting:
            job, future = waiting.popleft()
            result = future.result()
            waiting.extend((following, pool.submit(run, following)) for following in islice(unsent, 1))
            if job.span is not None:
                if version is not None and version != job.span.version:
                    version.check_unchanged()
                version = job.span.version
            yield job, result
        if version is not None:
            version.check_unchanged()
    finally:
        pool.shutdown(cancel_futures=True)
