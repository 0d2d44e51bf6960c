"""What an iteration of Lanczos costs on this machine, told from a few."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.probes.curvature.lanczos import largest_eigenvalues
from fromage_cli.probes.curvature.preconditioned_hessian import gradient_of
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor

ITERATIONS = 4
"""That are timed."""


@dataclass(frozen=True)
class IterationCost:
    """What Lanczos iterations with the Hessian take: a product, and all that is done with its result."""

    seconds: float = 0.0
    """Of one; the mean of those after the first."""
    beginning: float = 0.0
    """Seconds that the first takes longer."""

    def time(self, iterations: float) -> float:
        """Seconds of so many."""
        return self.beginning + self.seconds * iterations if iterations else 0.0


def iteration_cost(problem: Problem, tensors: Sequence[TrainableTensor]) -> IterationCost:
    """Times Lanczos iterations over the tensors; nothing where the loss has no finite second derivative."""
    space, ends = WeightSpace(tensors), [time.perf_counter()]
    with suppress(MismatchError, NumericalError), hessian(problem, space) as product:
        largest_eigenvalues(
            product,
            gradient_of(problem, space),
            tolerance=0.0,
            max_products=ITERATIONS,
            draw=space.draw,
            advance=lambda: ends.append(time.perf_counter()),
        )
    if len(ends) < 3:
        return IterationCost()
    seconds = (ends[-1] - ends[1]) / (len(ends) - 2)
    return IterationCost(seconds, max(0.0, ends[1] - ends[0] - seconds))
