"""Whether the copies of what a checkpoint stores more than once agree, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fromage_cli.checkpoints.checkpoint import Copy, Replica
from fromage_cli.checkpoints.reading.arrays import CHUNK, bytes_of
from fromage_cli.checkpoints.reading.chunks import JOB, Job, on_threads
from fromage_cli.checkpoints.reading.reductions import Advance
from fromage_cli.checkpoints.reading.widening import Widening
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS, StoredTensor
from fromage_cli.optimizers.rounded_step import Dtype, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDE = ("float32", "float64")
"""The dtypes of weights that are kept beside a rounded copy."""


@dataclass(frozen=True)
class Difference:
    """How far the copies of some entries are apart."""

    differ: int = 0
    """Entries that are not equal."""
    largest: float = 0.0
    """The largest |a - b| / max(|a|, |b|) of them; infinite where one of the two is not finite."""

    def __add__(self, other: Difference) -> Difference:
        return Difference(self.differ + other.differ, max(self.largest, other.largest))


@dataclass(frozen=True)
class ComparedReplica:
    """A replica after its copies were compared with the first of them."""

    replica: Replica
    apart: tuple[Copy, ...]
    """The copies that differ from the first."""
    difference: Difference | None
    """That of the copy with the most entries that differ; None where a copy has another shape."""

    @classmethod
    def of(cls, replica: Replica, found: Sequence[tuple[Copy, Difference | None]]) -> ComparedReplica:
        """From the difference of every further copy; None for one of another shape."""
        known = [each for _, each in found if each is not None]
        worst = max(known, key=lambda each: each.differ) if len(known) == len(found) else None
        return cls(replica, tuple(copy for copy, each in found if each is None or each.differ), worst)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files of the first copy and of those that differ; those of all copies where none does."""
        shown = (self.replica.copies[0], *self.apart) if self.apart else self.replica.copies
        return tuple(dict.fromkeys(file for copy in shown for file in copy.files))


def comparable(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """Return the replicas with those copies that hold real numbers."""
    real = (
        replace(one, copies=tuple(copy for copy in one.copies if _is_real(copy.tensor)))
        for one in replicas
        if _is_real(one.copies[0].tensor)
    )
    return tuple(one for one in real if len(one.copies) > 1)


def compare_replicas(
    replicas: Sequence[Replica], advance: Advance = lambda elements, doing: None
) -> tuple[ComparedReplica, ...]:
    """Compare each copy with the first one of its replica, which are `comparable`. Raises InputError as reading does.

    Copies of one dtype have to be equal bit for bit. Of float32 weights beside 16-bit ones the rounded number counts.
    """
    pairs = [(place, copy) for place, one in enumerate(replicas) for copy in one.copies[1:]]
    firsts = [replicas[place].copies[0].tensor for place, _ in pairs]
    sums: list[Difference | None] = [
        Difference() if copy.tensor.shape == first.shape else None
        for first, (_, copy) in zip(firsts, pairs, strict=True)
    ]

    def jobs() -> Iterator[Job]:
        for index, (place, copy) in enumerate(pairs):
            if sums[index] is not None:
                first, entries = firsts[index], firsts[index].numel()
                size = JOB if first.in_order and copy.tensor.in_order else max(entries, 1)
                for begin in range(0, entries, size):
                    count = min(size, entries - begin)
                    yield Job(replicas[place].name, first.dtype, begin, count, index, None)

    def work(buffers: tuple[_Buffer, _Buffer], job: Job) -> Difference:
        total = Difference()
        one, other = firsts[job.series_index], pairs[job.series_index][1].tensor
        chunks = zip(buffers[0].chunks(one, job), buffers[1].chunks(other, job), strict=True)
        for stored, copied in chunks:
            total += difference(stored, one.dtype, copied, other.dtype)
        return total

    for job, found in on_threads(jobs(), lambda: (_Buffer(), _Buffer()), work):
        before = sums[job.series_index]
        sums[job.series_index] = found if before is None else before + found
        advance(job.elements, "comparing copies")
    own: list[list[tuple[Copy, Difference | None]]] = [[] for _ in replicas]
    for (place, copy), end in zip(pairs, sums, strict=True):
        own[place].append((copy, end))
    return tuple(ComparedReplica.of(one, found) for one, found in zip(replicas, own, strict=True))


def difference(stored: NDArray[Any], dtype: str, copied: NDArray[Any], other: str) -> Difference:
    """Compare entries of one dtype with those of another; both (bytes,) uint8, little endian."""
    import numpy

    if dtype == other and numpy.array_equal(stored, copied):
        return Difference()
    one, two = _at_the_narrower(stored, dtype, other), _at_the_narrower(copied, other, dtype)
    if dtype == other:
        width = WIDTHS[dtype]
        unequal = (stored.reshape(-1, width) != copied.reshape(-1, width)).any(axis=1)
    elif numpy.array_equal(one, two):
        return Difference()
    else:
        unequal = (one != two) & ~(numpy.isnan(one) & numpy.isnan(two))
    if not unequal.any():
        return Difference()
    with numpy.errstate(invalid="ignore", divide="ignore"):
        one, two = one[unequal].astype(numpy.float64), two[unequal].astype(numpy.float64)
        size = numpy.maximum(numpy.abs(one), numpy.abs(two))
        relative = numpy.where(size == 0.0, 0.0, numpy.abs(one / size - two / size))
    relative[~numpy.isfinite(relative)] = numpy.inf
    return Difference(one.size, float(relative.max()))


def _at_the_narrower(stored: NDArray[Any], dtype: str, other: str) -> NDArray[Any]:
    """Return entries as real numbers, rounded where the copy of them is narrower."""
    import numpy

    values = Widening(stored.size // WIDTHS[dtype]).widened(stored, dtype)
    if dtype in WIDE and other in get_args(Dtype) and WIDTHS[other] < WIDTHS[dtype]:
        with numpy.errstate(over="ignore"):
            return rounded(values.astype(numpy.float32), other)  # type: ignore[arg-type]
    return values


class _Buffer:
    """Memory for a chunk of one copy."""

    def __init__(self) -> None:
        import numpy

        self._stored: NDArray[Any] = numpy.empty(CHUNK * max(WIDTHS.values()), numpy.uint8)

    def chunks(self, tensor: StoredTensor, job: Job) -> Iterator[NDArray[Any]]:
        """Yield the bytes of each chunk, (bytes,) uint8, valid until the next one."""
        width = tensor.width
        whole = None if tensor.in_order else bytes_of(tensor.read())
        for begin, end in job.parts():
            if whole is not None:
                yield whole[width * (job.begin + begin) : width * (job.begin + end)]
                continue
            stored = self._stored[: width * (end - begin)]
            tensor.read_part(job.begin + begin, stored.data)
            yield stored


def _is_real(tensor: StoredTensor) -> bool:
    return tensor.dtype in WIDTHS and not tensor.dtype.startswith("complex") and not tensor.peculiarity
