"""The batch sharpness, curvature along the gradient of small batches: E_B[g^T H g / ||g||^2].

Source: Andreyev, Beneventano, *Edge of stochastic stability*, 2024.
"""

import math
from dataclasses import dataclass
from statistics import mean, stdev

from torch import Tensor

from fromage_cli.errors import NumericalError
from fromage_cli.probes.optimizer_step.minibatches import batches_of
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.accumulation import inner_product, squared_norm

PARTS = 8
"""Into how many a single batch is cut where no size is given."""


@dataclass(frozen=True)
class GradientCurvature:
    """The mean over small batches, with its standard error."""

    mean: float
    stderr: float
    batches: int
    batch_size: int


def training_batches(problem: Problem, rows: int | None) -> list[Batch]:
    """Cuts small batches of so many rows; without a number the batches as they are, or eighths of the only one.

    Rows that are left over belong to none.
    """
    if rows is None and problem.further:
        return list(problem.batches)
    return batches_of(problem, rows or problem.batch.size // min(PARTS, max(problem.batch.size // 2, 1)))


def gradient_curvature(problem: Problem, space: WeightSpace, parts: list[Batch]) -> GradientCurvature | None:
    """Takes the mean over the parts of g^T H g / ||g||^2, each with its own gradient and Hessian; None for one alone.

    Costs a gradient and a Hessian-vector product of all rows. Raises NumericalError when one is not finite.
    """
    values = [value for value in (_along_gradient(problem, space, part) for part in parts) if value is not None]
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        raise NumericalError(
            "The curvature along the gradient of a small batch is not finite.", "Give a larger --train-batch-size."
        )
    error = stdev(values) / math.sqrt(len(values))
    return GradientCurvature(mean(values), error, len(values), max(part.size for part in parts))


def _along_gradient(problem: Problem, space: WeightSpace, part: Batch) -> float | None:
    """g^T H g / ||g||^2 of one part; None where its gradient is zero."""
    alone = problem.on(part)
    names = {tensor.name for tensor in space.tensors}
    kept: dict[str, Tensor] = {}
    alone.visit_gradient(lambda tensor, part: kept.update({tensor.name: part}) if tensor.name in names else None)
    gradients = [kept.get(tensor.name, tensor.parameter.detach() * 0.0) for tensor in space.tensors]
    gradient = space.flat(gradients)
    size = squared_norm(gradient)
    share = part.size / problem.rows
    problem.evaluations.gradients += share
    if size == 0.0:
        return None
    with hessian(alone, space) as product:
        curvature = inner_product(gradient, product(gradient)) / size
    problem.evaluations.hessian_vector_products += share
    return curvature
