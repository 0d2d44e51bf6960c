"""What a distance will cost on this machine, estimated from small trials."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.reading.arrays import CHUNK
from fromage_cli.checkpoints.reading.pairs import measure_pair
from fromage_cli.diagnostics.distance.measure import singular_values
from fromage_cli.process_memory import largest_resident
from fromage_cli.terminal.answer import Estimate
from fromage_cli.theory.spectra import DENSE

if TYPE_CHECKING:
    from fromage_cli.problem.evaluation.problem import Problem

TRIAL = 1 << 21
"""Elements of the largest matrix that is decomposed for a trial, and about as many as are read for one."""
FUNCTION = 1.0 + 5.0 / 3.0
"""Of the function part, in gradients: which tensors receive one, either output, and whether the loss stays the same."""


def estimate(
    problem: "Problem | None", pair: tuple[Checkpoint, Checkpoint], names: Sequence[str], spectrum: bool
) -> Estimate:
    """Reading and singular values, and with a model its passes."""
    seconds, memory = measure_cost(*pair, names, spectrum)
    if problem is None:
        return Estimate(0.0, memory, seconds)
    from fromage_cli.probes.cost import measure_cost as gradient_cost

    whole = gradient_cost(problem)
    return Estimate(FUNCTION, memory + whole.memory(copies=1.0), seconds + whole.time(FUNCTION))


def measure_cost(first: Checkpoint, second: Checkpoint, names: Sequence[str], spectrum: bool) -> tuple[float, int]:
    """Seconds and peak bytes of the distance of all paired tensors, without the function part.

    Some tensors are read and compared, and one matrix of either kind is decomposed; both are scaled.
    """
    elements = {name: first.entries[name].elements for name in names if first.entries[name].elements}
    few = [name for name, before in zip(elements, accumulate([0, *elements.values()]), strict=False) if before < TRIAL]
    read = sum(elements[name] for name in few)
    seconds = _seconds(lambda: [measure_pair(first, second, name) for name in few])
    seconds *= sum(elements.values()) / read if read else 0.0
    matrices = [name for name in elements if len(first.entries[name].shape) > 1] if spectrum else []
    work = {name: _operations(first.entries[name].shape[0], elements[name]) for name in matrices}
    large = [name for name in matrices if work[name].large]
    held = []
    for alike, copies in ((large, 2 * 4), ([name for name in matrices if name not in large], 4 * 8)):
        if alike:
            # both matrices as they are held, two in float32 or four in float64 where one is decomposed
            held.append(max(elements[name] for name in alike) * copies)
            some = [name for name in alike if elements[name] <= TRIAL]
            tried = max(some, key=elements.__getitem__) if some else min(alike, key=elements.__getitem__)
            if not math.isfinite(measure_pair(first, second, tried).difference):
                continue
            share = sum(work[name].operations for name in alike) / work[tried].operations
            seconds += share * _seconds(partial(singular_values, first, second, tried))
    return seconds, (largest_resident() or 0) + 8 * 6 * CHUNK + max(held, default=0)


class _Work(NamedTuple):
    """What a matrix's singular values take."""

    operations: int
    """To within a factor that all matrices of the kind share."""
    large: bool
    """Whether it is too large to be decomposed, and only its spectral norm is found by iterations."""


def _operations(rows: int, elements: int) -> _Work:
    """The arithmetic of a decomposition, or of a product with a matrix that is too large for one."""
    short, long = sorted((rows, elements // rows))
    return _Work(short * long, True) if short > DENSE else _Work(short**2 * long, False)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
