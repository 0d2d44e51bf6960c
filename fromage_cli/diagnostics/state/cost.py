"""What the answer will cost on this machine, estimated from some of the tensors."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.reading_cost import SAMPLE, reduction_cost
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.subjects import Subject, read_slots, read_tensors, tensor_subjects
from fromage_cli.diagnostics.state.unmatched import slot_subjects
from fromage_cli.diagnostics.state.updates import MOST_WORK
from fromage_cli.optimizers.streamed import orthogonalised_norm
from fromage_cli.process_memory import largest_resident
from fromage_cli.terminal.answer import Estimate

TRIAL = 256
"""Side of the matrix that is orthogonalised to tell the speed."""
SQUARE = 0.1
"""Time of the product of a square matrix with itself, over that of its eigenvalues."""


def estimate(links: Links) -> Estimate:
    """Reading weights and slots of all checkpoints, and the matrices that Muon orthogonalises."""
    places = range(len(links.checkpoints))
    tensors = [tensor_subjects(links, index) for index in places]
    slots = [slot_subjects(links.settings_at(index)) for index in places]

    def reduce(_: Checkpoint, few: Sequence[str]) -> object:
        return read_tensors(links, [{name: own[name] for name in few if name in own} for own in tensors])

    reading = reduction_cost([links.checkpoints[-1]], links.names, reduce)
    seconds, held = orthogonalising([one for own in (*tensors, *slots) for one in own.values()])
    seconds += reading.seconds + seconds_of_slots(links, slots)
    return Estimate(0.0, max(reading.bytes, largest_resident() or 0) + held, seconds)


def seconds_of_slots(links: Links, subjects: Sequence[Mapping[str, Subject]]) -> float:
    """The time for slots whose tensor is not known, by that for the first of them."""
    sizes = {name: math.prod(subject.trained.shape) for name, subject in subjects[-1].items()}
    few = [name for name, before in zip(sizes, accumulate([0, *sizes.values()]), strict=False) if before < SAMPLE]
    started = time.perf_counter()
    read_slots(links, [{name: own[name] for name in few if name in own} for own in subjects])
    seconds = time.perf_counter() - started
    read = sum(sizes[name] for name in few)
    return seconds * sum(sizes.values()) / read if read else 0.0


def orthogonalising(subjects: Sequence[Subject]) -> tuple[float, int]:
    """Seconds and bytes for all matrices whose momentum is orthogonalised, by a trial with a smaller one."""
    import numpy

    trained = [subject.trained for subject in subjects if subject.trained.by_whole_matrix]
    known = [shape for one in trained if (shape := one.matrices) is not None]
    shapes = [(count, r, c) for count, r, c in known if count * min(r, c) ** 3 <= MOST_WORK]
    if not shapes:
        return 0.0, 0
    matrix = numpy.random.default_rng(0).normal(size=(TRIAL, TRIAL))
    orthogonalised_norm(matrix, (1.0, 0.0, 0.0), 1, 0.0)  # the first call loads what it takes
    started = time.perf_counter()
    orthogonalised_norm(matrix, (1.0, 0.0, 0.0), 1, 0.0)
    unit = (time.perf_counter() - started) / TRIAL**3 / (1.0 + SQUARE)
    seconds = math.fsum(count * unit * min(r, c) ** 2 * (min(r, c) + SQUARE * max(r, c)) for count, r, c in shapes)
    return seconds, max(r * c * (4 + 8) + 3 * 8 * min(r, c) ** 2 for _, r, c in shapes)
