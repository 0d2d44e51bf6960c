"""The standard error of the critical sharpness: how far that of these rows is from that of all data.

The critical rate is where the mean change of the loss along a fixed step is zero again. The error of the rate is that
of the mean there over its slope. It comes from disjoint parts of the rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from torch import Tensor

from fromage_cli.probes.lines.critical import moved_along
from fromage_cli.probes.optimizer_step.minibatches import require_samples
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.held_draws import on_parts
from fromage_cli.problem.evaluation.problem import Problem

FURTHER = 1.1
"""Between this many times the critical rate and the rate itself the slope is taken."""


def critical_sharpness_error(
    problem: Problem,
    step: Mapping[str, Tensor],
    rate: float,
    parts: Sequence[Batch],
    contraction: Callable[[float], float] = lambda rate: 1.0,
) -> float | None:
    """Takes the standard error of 2 / rate over the parts, for a fixed step; None for one part or without a slope.

    `rate`: the critical one of all rows along w - rate * step; `contraction`: what the rule multiplies weights by
    after a step of that rate. Costs three forward passes of all rows; the weights are afterwards as before. Raises
    MismatchError for a loss of rows together.
    """
    if len(parts) < 2:
        return None
    tensors = [tensor for tensor in problem.receiving if tensor.name in step]
    alone = on_parts(problem, parts)
    with moved_along(problem, tensors, step, contraction) as move:

        def losses(at: float) -> list[float]:
            move(at)
            problem.evaluations.forwards += sum(part.size for part in parts) / problem.rows
            return [each.value() for each in alone]

        start = losses(0.0)
        require_samples(problem, parts, start)
        there, beyond = losses(rate), losses(FURTHER * rate)
    changes = [after - before for before, after in zip(start, there, strict=True)]
    slope = (fmean(beyond) - fmean(there)) / (FURTHER * (FURTHER - 1.0) * rate)  # the tangent of a parabola there
    error = stdev(changes) / math.sqrt(len(parts)) if all(map(math.isfinite, changes)) else math.nan
    found = 2.0 / rate**2 * error / slope if slope > 0.0 else math.nan
    return found if math.isfinite(found) else None
