"""Weights and what an optimizer remembers of them, read together: the same elements of each, a chunk at a time.

A few threads read into small buffers, which are used again. A tensor is held whole only where it has to be: where its
elements do not lie in order in a file, or where its format has no places for weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from fromage_cli.checkpoints.checkpoint import Checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import as_stored
from fromage_cli.checkpoints.reading.arrays import CHUNK, bytes_of
from fromage_cli.checkpoints.reading.chunks import JOB, ChunkReader, Job, Result, Worker, jobs_of, on_threads
from fromage_cli.checkpoints.reading.reductions import Advance, being_read
from fromage_cli.checkpoints.reading.widening import Widening
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS, StoredTensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHT = "weight"
"""What the weight itself is called among its slots."""
STEP = "step"
"""The slot that counts updates; it has the shape of a weight that is a single number."""
WIDEST = 8
"""Bytes of a real floating-point number at most."""


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
    """Yield what the work makes of every part of the named tensors, in order whichever thread is faster.

    `slots` by the name of the tensor, empty for weights alone. Each thread makes a worker of its own. Tensors that are
    not floating are left out, and slots that `shaped_like` leaves out. Raises InputError when a file is cut off or
    changes meanwhile.
    """
    entries = {name: checkpoint.entries[name] for name in slots if name in checkpoint.entries}
    found = {
        name: shaped_like(slots[name], entry.shape)
        for name, entry in entries.items()
        if entry.floating and entry.dtype in WIDTHS
    }

    def run(reader: _PartReader[Worker], job: Job) -> list[tuple[Place, Result]]:
        parts = reader.parts(job, found[job.name])
        return [(Place(part.name, part.begin, part.arrays[WEIGHT].size), work(reader.worker, part)) for part in parts]

    for job, results in on_threads(_jobs(checkpoint, found), lambda: _PartReader(make()), run):
        yield from results
        advance(job.elements, being_read(checkpoint))
    for tensors in found.values():
        _verify(tensors)


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
        return [(place, work(reader.worker, Part(place.name, place.begin, arrays))) for place, arrays in parts]

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
    source, dtype, size, reader = _source(tensor), _dtype(tensor), math.prod(tensor.shape) // count, _SlotReader()
    for start in range(0, size * count, max(size, 1)):
        flat: NDArray[Any] = numpy.empty(size, numpy.float64 if dtype == "float64" else numpy.float32)
        for begin in range(0, size, CHUNK):
            elements = min(CHUNK, size - begin)
            flat[begin : begin + elements] = reader.read(source, dtype, Place(name, start + begin, elements))
        yield flat


def scalar(slot: Mapping[str, Any], name: str) -> float | None:
    """Return the number in a slot, plain or a tensor of one; None where there is none of that name.

    Raises InputError when its file cannot be read.
    """
    value: Any = as_stored(slot).get(name)
    if tuple(getattr(value, "shape", (0,))) in ((), (1,)):
        value = value.item()
    return value if isinstance(value, int | float) else None


class _PartReader(Generic[Worker]):
    """The buffers of one thread, and its worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._weights = ChunkReader()
        self._widening = Widening(CHUNK)
        self._slots: dict[str, _SlotReader] = {}

    def parts(self, job: Job, tensors: Mapping[str, Any]) -> Iterator[Part]:
        """Yield the parts of a job, each valid until the next one; `tensors` are its slots."""
        for (place, arrays), stored in zip(self.slot_parts(job, tensors), self._weights.read(job), strict=True):
            yield Part(place.name, place.begin, {**arrays, WEIGHT: self._widening.widened(stored, job.dtype)})

    def slot_parts(self, job: Job, tensors: Mapping[str, Any]) -> Iterator[tuple[Place, dict[str, NDArray[Any]]]]:
        """Yield the same of the slots alone."""
        sources = {name: _source(tensor) for name, tensor in tensors.items()}
        for name in sources:
            self._slots.setdefault(name, _SlotReader())
        for begin, end in job.parts():
            place = Place(job.name, job.begin + begin, end - begin)
            yield (
                place,
                {
                    name: self._slots[name].read(source, _dtype(tensors[name]), place)
                    for name, source in sources.items()
                },
            )


class _SlotReader:
    """The buffers of one thread for slots of one name."""

    def __init__(self) -> None:
        import numpy

        self._stored: NDArray[Any] = numpy.empty(CHUNK * WIDEST, numpy.uint8)
        self._widening = Widening(CHUNK)

    def read(self, source: StoredTensor | NDArray[Any], dtype: str, place: Place) -> NDArray[Any]:
        """Return the elements in a place, (elements,), valid until the next call."""
        width = WIDTHS[dtype]
        if isinstance(source, StoredTensor):
            stored = self._stored[: width * place.elements]
            source.read_part(place.begin, stored.data)
        else:
            stored = source[width * place.begin : width * (place.begin + place.elements)]
        return self._widening.widened(stored, dtype)


def _jobs(checkpoint: Checkpoint, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Job]:
    """Yield the work on tensors; one with a slot that has to be held whole is one job."""
    for name, tensors in found.items():
        _verify(tensors)
        jobs = jobs_of(checkpoint, [name])
        if all(isinstance(tensor, StoredTensor) and tensor.in_order for tensor in tensors.values()):
            yield from jobs
        else:
            yield from (replace(job, elements=checkpoint.entries[name].elements) for job in islice(jobs, 1))


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
