"""The smallest step along a real update that raises the loss, by forward passes alone.

2 / it is the critical sharpness: the curvature along the update that would make plain descent unstable there.
Source: *Critical sharpness*, arXiv 2601.16979.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fromage_cli.errors import NumericalError
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import inner_product

PRECISION = 1.05
"""The rate is known up to this factor."""
ATTEMPTS = 24
"""Forward passes at most."""
GUESSES = 6
"""How many of them lead to a parabola's guess; the others halve the bracket."""
CRAWLS = 2
"""After so many the rate is doubled at least while the loss stays as low as it has been: it may be flat."""
FLOOR = 0.8
"""Of the deepest fall seen: as low as that counts as flat."""
ROUNDING_STEPS = 16.0
"""The loss must fall by so many of its rounding errors on the way: otherwise they hide the rate."""


def critical_rate(
    problem: Problem,
    step: Mapping[str, Tensor],
    start: float,
    contraction: Callable[[float], float] = lambda rate: 1.0,
    *,
    precision: float = PRECISION,
    attempts: int = ATTEMPTS,
) -> float | None:
    """Finds the learning rate from which on w - rate * step has a higher loss than w; None where there is none.

    `start`: where the search begins; `contraction`: what the rule multiplies weights by after a step of that rate;
    `precision`: the factor up to which the rate is known in the end; `attempts`: how many rates are tried at most.
    There is no answer after them, nor for a step that goes uphill from the start. The weights are afterwards as before.
    Costs 4 forward passes where the loss is quadratic along the step, and up to ten elsewhere. A far-off start takes
    more; a rise that lies between the points tried is not seen. Raises NumericalError where the loss falls by no more
    than it is rounded.
    """
    slope = descent_along(problem, step)
    if not slope > 0.0:
        return None
    tensors = [tensor for tensor in problem.receiving if tensor.name in step]
    with moved_along(problem, tensors, step, contraction) as move:
        base = problem.value()

        def rise(rate: float) -> float:
            move(rate)
            value = problem.value()
            return value - base if math.isfinite(value) else math.inf

        found = _smallest_rise(rise, slope, start, precision, attempts)
    fall = slope * found / 4.0 if found is not None else math.inf  # of a parabola, half of the way to the rate
    dtype = torch.bfloat16 if problem.autocast else problem.dtype
    if fall < ROUNDING_STEPS * torch.finfo(dtype).eps * abs(base):
        raise NumericalError(
            f"the loss ({base:.4g}) falls by {fall:.1g} along the step, which is almost lost in the "
            f"rounding of {str(dtype).removeprefix('torch.')}",
            "Try --dtype float64.",
        )
    return found


@contextmanager
def moved_along(
    problem: Problem,
    tensors: Sequence[TrainableTensor],
    step: Mapping[str, Tensor],
    contraction: Callable[[float], float] = lambda rate: 1.0,
) -> Iterator[Callable[[float], None]]:
    """Yields what sets the weights to contraction(rate) (w - rate * step); they are afterwards as before."""
    with problem.displaced(tensors) as origin:

        def move(rate: float) -> None:
            factor = contraction(rate)
            for tensor in tensors:
                weight = tensor.parameter.data
                torch.add(origin[tensor.name], step[tensor.name], alpha=-rate, out=weight)
                if factor != 1.0:
                    weight.mul_(factor)

        yield move


def descent_along(problem: Problem, step: Mapping[str, Tensor]) -> float:
    """How fast the loss falls along w - rate * step at the start, <g, step>."""
    return math.fsum(inner_product(problem.base.gradients[name], part) for name, part in step.items())


def _smallest_rise(
    rise: Callable[[float], float], slope: float, start: float, precision: float, attempts: int
) -> float | None:
    """Where `rise`, which falls with `slope` at 0, is first above 0: a parabola's guess, tightened from both sides."""
    low, high, rate, deepest = 0.0, math.inf, start, 0.0
    for attempt in range(attempts):
        above = rise(rate)
        if above > 0.0:
            high = rate
        else:
            low = rate
        if low > 0.0 and high <= precision * low:
            return math.sqrt(low * high)
        following = _next_rate(low, high, rate, above, slope if attempt < GUESSES else None)
        flat = attempt >= CRAWLS and not math.isfinite(high) and above <= FLOOR * deepest
        rate, deepest = max(following, 2.0 * low) if flat else following, min(deepest, above)
    return None


def _next_rate(low: float, high: float, rate: float, above: float, slope: float | None) -> float:
    """The parabola's root where it lies inside the bracket, a little beyond the last point; else further or between."""
    if slope is not None and math.isfinite(above):
        curvature = above / rate + slope
        root = slope * rate / curvature if curvature > 0.0 else math.inf
        if low < root < high:
            nudge = 0.99 * math.sqrt(PRECISION)
            return root * nudge if above <= 0.0 else root / nudge
    if not math.isfinite(high):
        return 2.0 * low
    return math.sqrt(low * high) if low > 0.0 else high / 4.0
