"""How large the gradients of training batches are, unit by unit: each part of a layer that has a scale of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step.gradient_noise import noise_chunks
from fromage_cli.probes.optimizer_step.minibatches import batches_of, require_mean, visit_minibatches
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import squared_norm

CHUNKS = 16
"""Gradients that are taken, of parts of the rows."""
BLOCK = 1 << 20
"""Elements that are widened at a time."""


@dataclass(frozen=True)
class Units:
    """How a tensor falls into parts along one dimension; one part is the whole."""

    parts: int = 1
    axis: int = 0


@dataclass(frozen=True)
class UnitGradients:
    """Gradients of training batches at fixed weights."""

    squares: Mapping[str, tuple[float, ...]]
    """E‖g_u‖² of every unit, by tensor name."""
    batch_size: int
    """Rows of a training batch."""


def squares_of_units(tensor: Tensor, units: Units) -> Tensor:
    """‖u‖² of every unit, [parts] float64 on the processor."""
    rows = tensor.detach().movedim(units.axis, 0).reshape(units.parts, -1)  # [parts, elements]
    if rows.shape[1] > BLOCK:
        return torch.tensor([squared_norm(row) for row in rows], dtype=torch.float64)
    blocks = torch.split(rows, BLOCK // max(rows.shape[1], 1))
    return torch.cat([block.double().square().sum(1) for block in blocks]).cpu()


def measure_unit_gradients(
    problem: Problem, units: Mapping[str, Units], batch_size: int | None = None
) -> UnitGradients:
    """E‖g_u‖² over batches of `batch_size` rows, from M gradients of b rows each; one gradient of all rows in all.

    With S = Σ g_i and Q = Σ ‖g_i‖²: ‖g‖² = (‖S‖² − Q) / (M(M−1)) and tr Σ = b (Q − ‖S‖²/M) / (M−1) without bias, and
    E‖g_B‖² = ‖g‖² + tr Σ / B; where that is not positive, tr Σ / B. For a loss of rows together, which has no such
    parts, b = B at one more gradient. Raises MismatchError where the size is not known, or the rows do not give two
    gradients under training's conditions.
    """
    parts = noise_chunks(problem, CHUNKS, batch_size)
    if not parts:
        raise MismatchError(
            "there are too few rows for two parts with the statistics of a training batch",
            "Give more rows, or several batches with --batches.",
        )
    size = batch_size or (problem.batch.size if problem.further else None)
    if size is None:
        raise MismatchError("the training batch size is not known", "Give --train-batch-size.")
    if parts[0].size != size and problem.uses_batch_statistics:
        raise MismatchError(
            f"BatchNorm depends on the batch size, so gradients of {parts[0].size} rows are no guide to {size}",
            "Give batches of the size used in training.",
        )
    try:
        return _measured(problem, units, parts, size)
    except MismatchError as error:
        whole = batches_of(problem, size)
        if parts[0].size == size:
            raise
        if len(whole) < 2:
            raise MismatchError(error.message, f"Give rows for two training batches of {size}.") from error
    return _measured(problem, units, whole, size)


def _measured(problem: Problem, units: Mapping[str, Units], parts: list[Batch], size: int) -> UnitGradients:
    """The same from given parts; batches of the training's own size need not be samples of anything else."""
    sums = {t.name: torch.zeros_like(t.parameter) for t in problem.receiving if t.name in units}
    squares = {name: torch.zeros(units[name].parts, dtype=torch.float64) for name in sums}

    def visit(tensor: TrainableTensor, gradient: Tensor) -> None:
        if tensor.name in sums:
            sums[tensor.name].add_(gradient)
            squares[tensor.name] += squares_of_units(gradient, units[tensor.name])

    count, rows = len(parts), parts[0].size
    visit_minibatches(problem, parts, visit, samples=rows != size)
    totals = {name: squares_of_units(total, units[name]) for name, total in sums.items()}
    if rows != size:
        gradients = problem.base.gradients
        gap = sum(squared_norm(total / count - gradients[name]) for name, total in sums.items())
        noise = sum(float((squares[name] - total / count).sum()) for name, total in totals.items())
        whole = sum(squared_norm(gradients[name]) for name in sums)
        require_mean(problem, gap, whole, noise / (count * (count - 1)))
    found = {name: expected_square(totals[name], squares[name], count, rows, size) for name in sums}
    return UnitGradients({name: tuple(each.tolist()) for name, each in found.items()}, size)


def expected_square(sum_square: Tensor, squares: Tensor, count: int, rows: int, batch_size: int) -> Tensor:
    """E‖g_B‖² of every unit from ‖S‖² and Q."""
    signal = (sum_square - squares) / (count * (count - 1))
    noise = rows * (squares - sum_square / count) / (count - 1) / batch_size
    return torch.where(signal + noise > 0.0, signal + noise, noise.clamp(min=0.0))
