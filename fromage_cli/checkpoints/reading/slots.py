"""Weights and what an optimizer remembers of them, read together: the same elements of each, a chunk at a time.

A few threads read into small buffers, which are used again. A tensor is held whole only where it has to be: where its
elements do not lie in order in a file, or where its format has no places for weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from fromage_cli.checkpoints.checkpoint import Checkpoint, Span
from fromage_cli.checkpoints.optimizers.optimizer_state import as_stored
from fromage_cli.checkpoints.reading.arrays import CHUNK, bytes_of
from fromage_cli.checkpoints.reading.chunks import JOB, Job, Result, Worker, fill, jobs_of, on_threads
from fromage_cli.checkpoints.reading.reductions import Advance, being_read
from fromage_cli.checkpoints.reading.widening import Widening
from fromage_cli.checkpoints.storage.files import opened
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS, StoredTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHT = "weight"
"""What the weight itself is called among its slots."""
STEP = "step"
"""The slot that counts updates; it has the shape of a weight that is a single number."""
AHEAD = 4
"""Chunks that are read at once, so that a file is opened for every few of them."""


class Place(NamedTuple):
    """Consecutive elements of one tensor."""

    name: str
    begin: int
    """The first element's place in the tensor, a multiple of CHUNK."""
    elements: int


@dataclass(frozen=True)
class Part:
    """A weight's elements in one place, and those of its slots."""

    name: str
    """That of the tensor."""
    begin: int
    """The first element's place in the tensor, a multiple of CHUNK."""
    arrays: Mapping[str, NDArray[Any]]
    """The weight and its slots of the same shape by name: (elements,) float64 where stored so, else float32.

    They are valid until the worker returns.
    """


def over_parts(
    checkpoint: Checkpoint,
    slots: Mapping[str, Mapping[str, Any]],
    work: Callable[[Worker, Part], Result],
    make: Callable[[], Worker],
    advance: Advance = lambda elements, doing: None,
) -> Iterator[tuple[Place, Result]]:
    """Yield what the work makes of every part of the named tensors of one checkpoint, as `over_series` does."""
    alone = over_series([checkpoint], [slots], lambda worker, _, part, before: work(worker, part), make, advance)
    return ((place, result) for _, place, result in alone)


def over_series(
    checkpoints: Sequence[Checkpoint],
    slots: Sequence[Mapping[str, Mapping[str, Any]]],
    work: Callable[[Worker, int, Part, Part | None], Result],
    make: Callable[[], Worker],
    advance: Advance = lambda elements, doing: None,
) -> Iterator[tuple[int, Place, Result]]:
    """Yield what the work makes of every part in every checkpoint, beside that in the one before.

    `slots`: of each checkpoint by the name of the tensor, empty for weights alone; those of the last one say which
    tensors are read. The work gets a checkpoint's index, its part, and that before: None where the tensor is not there
    in this shape. The first checkpoint has none before. Results come in order whichever thread is faster; each thread
    makes a worker of its own. Tensors that are not floating are left out, and slots that `shaped_like` leaves out.
    Raises InputError when a file is cut off or changes meanwhile.
    """
    found = [_readable(*pair) for pair in zip(checkpoints, slots, strict=True)]
    wanted = {name: checkpoints[-1].entries[name].shape for name in found[-1]}
    for checkpoint, tensors in zip(checkpoints, found, strict=True):
        for name in [name for name in tensors if checkpoint.entries[name].shape != wanted.get(name)]:
            del tensors[name]

    def run(reader: _PartReader[Worker], job: _SeriesJob) -> list[tuple[int, Place, Result]]:
        return [
            (index, Place(part.name, part.begin, part.arrays[WEIGHT].size), work(reader.worker, index, part, before))
            for index, part, before in reader.parts(job, found)
        ]

    for job, results in on_threads(_series_jobs(checkpoints, found), lambda: _PartReader(make()), run):
        yield from results
        advance(job.elements * len(job.jobs), being_read(checkpoints[-1]))
    for checkpoint, tensors in zip(checkpoints, found, strict=True):
        for name in tensors:
            _verify(tensors[name])
            if (span := checkpoint.spans.get(name)) is not None:
                span.version.check_unchanged()


def _readable(checkpoint: Checkpoint, slots: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the slots of the floating tensors among those named that a checkpoint holds, by name."""
    entries = {name: checkpoint.entries[name] for name in slots if name in checkpoint.entries}
    return {
        name: shaped_like(slots[name], entry.shape)
        for name, entry in entries.items()
        if entry.floating and entry.dtype in WIDTHS
    }


def over_slots(
    slots: Mapping[str, tuple[tuple[int, ...], Mapping[str, Any]]],
    work: Callable[[Worker, Part], Result],
    make: Callable[[], Worker],
    advance: Advance = lambda elements, doing: None,
) -> Iterator[tuple[Place, Result]]:
    """The same of slots whose weights are not known, each with their shape, by any name.

    The arrays of a part are those of the slots alone.
    """
    found = {name: shaped_like(slot, shape) for name, (shape, slot) in slots.items()}

    def jobs() -> Iterator[Job]:
        for name, tensors in found.items():
            _verify(tensors)
            elements = math.prod(slots[name][0]) if tensors else 0
            in_parts = all(isinstance(one, StoredTensor) and one.in_order for one in tensors.values())
            size = JOB if in_parts else max(elements, 1)
            for begin in range(0, elements, size):
                yield Job(name, "", begin, min(size, elements - begin), 0, None)

    def run(reader: _PartReader[Worker], job: Job) -> list[tuple[Place, Result]]:
        parts = reader.slot_parts(job, found[job.name])
        return [(place, work(reader.worker, part)) for place, part in parts]

    for job, results in on_threads(jobs(), lambda: _PartReader(make()), run):
        yield from results
        advance(job.elements, "the optimizer's state")
    for tensors in found.values():
        _verify(tensors)


def shaped_like(slot: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the floating tensors in a slot that have the weight's shape, by name, unread where they are."""
    return {
        name: tensor
        for name, tensor in _tensors(slot).items()
        if name != STEP and tuple(tensor.shape) == shape and _is_floating(_dtype(tensor))
    }


def shaped_otherwise(slot: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a slot that are neither the weight's shape nor single numbers, by name.

    Adafactor's factors are such. Any other slot of them belongs to another weight.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(slot).items()}
    return {name: other for name, other in shapes.items() if other not in (shape, (), (1,))}


def dtypes_of(slot: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtypes in which the tensors of a slot are stored, as torch names them, by name."""
    return {name: _dtype(tensor) for name, tensor in _tensors(slot).items()}


def load_slot(slot: Mapping[str, Any], name: str, count: int = 1) -> Iterator[NDArray[Any]]:
    """Yield one floating tensor of a slot in so many equal parts: (elements,) float64 where stored so, else float32.

    Raises InputError when its file is cut off.
    """
    import numpy

    tensor = _tensors(slot)[name]
    source, dtype, size, reader = _source(tensor), _dtype(tensor), math.prod(tensor.shape) // count, _Reader()
    for start in range(0, size * count, max(size, 1)):
        flat: NDArray[Any] = numpy.empty(size, numpy.float64 if dtype == "float64" else numpy.float32)
        for begin in range(0, size, CHUNK):
            end = min(begin + CHUNK, size)
            flat[begin:end] = reader.read(source, dtype, (start + begin, start + end, size * count), AHEAD)
        yield flat


def scalar(slot: Mapping[str, Any], name: str) -> float | None:
    """Return the number in a slot, plain or a tensor of one; None where there is none of that name.

    Raises InputError when its file cannot be read.
    """
    value: Any = as_stored(slot).get(name)
    if tuple(getattr(value, "shape", (0,))) in ((), (1,)):
        value = value.item()
    return value if isinstance(value, int | float) else None


@dataclass(frozen=True)
class _SeriesJob(Job):
    """The same elements of a tensor in consecutive checkpoints; as a job it is that of the last of them."""

    jobs: tuple[Job | None, ...] = ()
    """One for each checkpoint; None where it is not read."""
    reported: frozenset[int] = frozenset()
    """The checkpoints that the work is done for; others are only read to be held against."""


class _PartReader(Generic[Worker]):
    """The buffers of one thread, and its worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._sides = (_Side(), _Side())

    def parts(
        self, job: _SeriesJob, tensors: Sequence[Mapping[str, Mapping[str, Any]]]
    ) -> Iterator[tuple[int, Part, Part | None]]:
        """Yield each part with the checkpoint's index and the part before, valid until the next one.

        `tensors`: the slots of each checkpoint by the tensor's name. Two checkpoints are held at a time.
        """
        ahead = AHEAD if len(job.jobs) <= len(self._sides) else 1  # else each fills the buffer of another
        sources = [
            None if own is None else _Opened.of(own, held[job.name], ahead)
            for own, held in zip(job.jobs, tensors, strict=True)
        ]
        for begin, end in job.parts():
            before: Part | None = None
            for index, source in enumerate(sources):
                part = None if source is None else self._sides[index % 2].read(source, begin, end)
                if part is not None and index in job.reported:
                    yield index, part, before
                before = part

    def slot_parts(self, job: Job, tensors: Mapping[str, Any]) -> Iterator[tuple[Place, Part]]:
        """Yield each part of slots alone, valid until the next one."""
        source = _Opened.of(job, tensors, AHEAD)
        for begin, end in job.parts():
            yield Place(job.name, job.begin + begin, end - begin), self._sides[0].read(source, begin, end)


@dataclass(frozen=True)
class _Opened:
    """Where the elements of a tensor and of its slots are read from in one checkpoint."""

    job: Job
    sources: Mapping[str, StoredTensor | NDArray[Any] | Span]
    """Of the weight and of each slot; bytes in memory where they have to be held whole."""
    dtypes: Mapping[str, str]
    ahead: int
    """Chunks that are read at once."""

    @classmethod
    def of(cls, job: Job, tensors: Mapping[str, Any], ahead: int) -> _Opened:
        """Read what has to be held whole."""
        sources: dict[str, StoredTensor | NDArray[Any] | Span] = {
            name: _source(tensor) for name, tensor in tensors.items()
        }
        dtypes = {name: _dtype(tensor) for name, tensor in tensors.items()}
        own = job.read() if job.read is not None else job.span
        if own is not None:
            sources[WEIGHT], dtypes[WEIGHT] = own, job.dtype
        return cls(job, sources, dtypes, ahead)


class _Side:
    """The buffers of one thread for one checkpoint."""

    def __init__(self) -> None:
        self._readers: dict[str, _Reader] = {}

    def read(self, opened: _Opened, begin: int, end: int) -> Part:
        """Return some elements, counted from the job's first, valid until the next call."""
        job, arrays = opened.job, {}
        for name, source in opened.sources.items():
            reader = self._readers.setdefault(name, _Reader())
            asked = (job.begin + begin, job.begin + end, job.begin + job.elements)
            arrays[name] = reader.read(source, opened.dtypes[name], asked, opened.ahead)
        return Part(job.name, job.begin + begin, arrays)


class _Reader:
    """The buffers of one thread for weights, or for slots of one name; filled with several chunks at once."""

    def __init__(self) -> None:
        import numpy

        self._stored: NDArray[Any] = numpy.empty(0, numpy.uint8)
        self._widening = Widening(CHUNK)
        self._held: tuple[object, int, int] = (None, 0, 0)

    def read(
        self, source: StoredTensor | NDArray[Any] | Span, dtype: str, asked: tuple[int, int, int], ahead: int
    ) -> NDArray[Any]:
        """Return elements, (elements,), valid until the next call; `asked`: their first, their end, and the job's."""
        (begin, end, last), width = asked, WIDTHS[dtype]
        if not isinstance(source, StoredTensor | Span):
            return self._widening.widened(source[width * begin : width * end], dtype)
        if source is not self._held[0] or not self._held[1] <= begin <= end <= self._held[2]:
            self._fill(source, width, begin, min(begin + ahead * CHUNK, last))
        start = self._held[1]
        return self._widening.widened(self._stored[width * (begin - start) : width * (end - start)], dtype)

    def _fill(self, source: StoredTensor | Span, width: int, begin: int, end: int) -> None:
        """Read elements into the buffer, which grows where it is too short."""
        import numpy

        if self._stored.size < width * (end - begin):
            self._stored = numpy.empty(width * (end - begin), numpy.uint8)
        view = self._stored[: width * (end - begin)].data
        if isinstance(source, StoredTensor):
            source.read_part(begin, view)
        else:
            with opened(source.version.path) as file:
                fill(file, source, width * begin, view)
        self._held = (source, begin, end)


def _series_jobs(
    checkpoints: Sequence[Checkpoint], found: Sequence[Mapping[str, Mapping[str, Any]]]
) -> Iterator[_SeriesJob]:
    """Yield the work on tensors. One that has to be held whole is read two checkpoints at a time."""
    indices = range(len(checkpoints))
    for name in found[-1]:
        own = [
            _jobs_of_one(checkpoint, name, tensors[name]) if name in tensors else None
            for checkpoint, tensors in zip(checkpoints, found, strict=True)
        ]
        lists = [jobs for jobs in own if jobs is not None]
        if not any(job.read or job.elements > JOB for jobs in lists for job in jobs):
            for place, job in enumerate(lists[-1]):
                same = tuple(None if jobs is None else jobs[place] for jobs in own)
                yield _SeriesJob(**vars(job), jobs=same, reported=frozenset(indices))
            continue
        whole = [None if not jobs else replace(jobs[0], elements=_elements(jobs)) for jobs in own]
        for index in indices:
            pair = tuple(each if place in (index - 1, index) else None for place, each in enumerate(whole))
            if (latest := pair[index]) is not None:
                yield _SeriesJob(**vars(latest), jobs=pair, reported=frozenset([index]))


def _jobs_of_one(checkpoint: Checkpoint, name: str, tensors: Mapping[str, Any]) -> list[Job]:
    """Return the work on one tensor of one checkpoint; with a slot that has to be held whole it is one job."""
    _verify(tensors)
    jobs = list(jobs_of(checkpoint, [name]))
    if all(isinstance(tensor, StoredTensor) and tensor.in_order for tensor in tensors.values()):
        return jobs
    return [replace(jobs[0], elements=_elements(jobs))] if jobs else []


def _elements(jobs: Sequence[Job]) -> int:
    return sum(job.elements for job in jobs)


def _verify(tensors: Mapping[str, Any]) -> None:
    """Raise InputError when the bytes of slots are not those that were written, or their file is not what it was."""
    for tensor in tensors.values():
        if isinstance(tensor, StoredTensor):
            tensor.verify()


def _source(tensor: Any) -> StoredTensor | NDArray[Any]:
    """Return a tensor that can be read a part at a time, or the bytes of any other: (bytes,) uint8."""
    if not isinstance(tensor, StoredTensor):
        return bytes_of(tensor)
    return tensor if tensor.in_order else bytes_of(tensor.read())


def _tensors(slot: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in as_stored(slot).items() if hasattr(value, "shape")}


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_floating(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat")) and dtype in WIDTHS
