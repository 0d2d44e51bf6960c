"""Signal and noise of minibatch gradients at fixed weights, tensor by tensor, from one pass over chunks of the rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromage_cli.probes.optimizer_step.minibatches import batches_of, require_mean, visit_minibatches
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import inner_product, squared_norm
from fromage_cli.theory.gradient_noise import ChunkProducts, NoiseEstimate


@dataclass(frozen=True)
class GradientNoise:
    """What chunks of the rows tell of the gradient."""

    rows: int
    """Of each chunk."""
    count: int
    """Chunks."""
    chunks: Mapping[str, ChunkProducts]
    """By tensor name."""
    along: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """<g_i, u> of the step that was given."""
    memory: Mapping[str, MomentEstimates] = field(default_factory=dict)
    """The mean of the chunks' gradients, and what the mean of their squares would be at the training batch size."""

    def moments(self, name: str) -> NoiseEstimate:
        """The estimates for one tensor."""
        return self.chunks[name].whole

    @property
    def noise_scale(self) -> float | None:
        """The batch size at which noise equals signal, sum tr Sigma / sum ||g||^2; None where noise dominates."""
        found = [chunks.whole for chunks in self.chunks.values()]
        signal = math.fsum(each.squared_norm for each in found)
        return math.fsum(each.variance for each in found) / signal if signal > 0.0 else None


def noise_chunks(problem: Problem, count: int, batch_size: int | None = None) -> list[Batch]:
    """Disjoint equal chunks of the rows, about `count` of them; empty where there would be fewer than two.

    With BatchNorm in training behaviour the rows of a chunk define the loss. Several batches are then taken as they
    are. A single one is cut only into training batches of a given size. Rows left over belong to none.
    """
    if problem.uses_batch_statistics:
        if problem.further:
            sizes = {batch.size for batch in problem.batches}
            return list(problem.batches) if len(sizes) == 1 else []
        rows = batch_size or problem.rows
    else:
        pieces = math.ceil(count / len(problem.batches))
        rows = max(1, min(batch.size for batch in problem.batches) // pieces)
    parts = batches_of(problem, rows)
    return parts if len(parts) > 1 else []


def measure_noise(
    problem: Problem,
    parts: list[Batch],
    *,
    batch_size: int | None = None,
    remember: bool = False,
    step: Mapping[str, Tensor] | None = None,
) -> GradientNoise:
    """Norms and inner products of the chunks' gradients, those with `step` too; one gradient of all rows in all.

    Raises MismatchError where loss or gradient of all rows is not the mean of the chunks': they are no samples.

    `remember` keeps the mean of the gradients and of their squares. The latter is that of batches of `batch_size` rows,
    or of the chunks where no size is given.
    """
    sums = _Sums(problem, remember, step or {})
    visit_minibatches(problem, parts, sums.visit, sums.close)
    rows, count = parts[0].size, len(parts)
    chunks = {
        name: ChunkProducts(rows, tuple(sums.norms[name]), _products(sums.with_base[name], squared_norm(total)))
        for name, total in sums.totals.items()
    }
    gap = whole = doubt = 0.0  # how far the chunks' mean is from the gradient, from ||S||^2, <S, g> and ||g||^2
    for name, found in chunks.items():
        own = squared_norm(sums.base[name])
        total, along = math.fsum(found.products), math.fsum(sums.with_base[name])
        gap += total / count**2 - 2.0 * along / count + own
        whole += own
        doubt += found.whole.variance / (rows * count)
    require_mean(problem, gap, whole, doubt)
    memory = {
        name: MomentEstimates(
            total.div_(count), _expected_square(total, sums.squares[name].div_(count), count, rows, batch_size)
        )
        for name, total in (sums.totals.items() if remember else ())
    }
    return GradientNoise(rows, count, chunks, {name: tuple(found) for name, found in sums.with_step.items()}, memory)


class _Sums:
    """What is kept of the chunks' gradients, each of which is freed when it has been visited."""

    def __init__(self, problem: Problem, remember: bool, step: Mapping[str, Tensor]) -> None:
        self.base, self.step = problem.base.gradients, step
        self.totals = {t.name: torch.zeros_like(t.parameter) for t in problem.receiving}
        self.squares = {name: torch.zeros_like(total) for name, total in self.totals.items()} if remember else {}
        self.norms: dict[str, list[float]] = {name: [] for name in self.totals}
        self.with_base: dict[str, list[float]] = {name: [] for name in self.totals}
        self.with_step: dict[str, list[float]] = {name: [] for name in step if name in self.totals}

    def visit(self, tensor: TrainableTensor, gradient: Tensor) -> None:
        """Takes in one gradient of one chunk."""
        name = tensor.name
        if name not in self.totals:
            return
        self.totals[name].add_(gradient)
        if self.squares:
            self.squares[name].addcmul_(gradient, gradient)
        self.norms[name].append(squared_norm(gradient))
        self.with_base[name].append(inner_product(gradient, self.base[name]))
        if name in self.with_step:
            self.with_step[name].append(inner_product(gradient, self.step[name]))

    def close(self, chunks: int) -> None:
        """After a chunk: a tensor that it does not use has a gradient of zero there."""
        for lists in (self.norms, self.with_base, self.with_step):
            for kept in lists.values():
                kept.extend([0.0] * (chunks - len(kept)))


def _products(along: list[float], sum_square: float) -> tuple[float, ...]:
    """<g_i, sum_j g_j> of every chunk from <g_i, g>: M times the gradient g of all rows is nearly the sum.

    Their sum, known exactly, corrects them for rows left over; only the standard error rests on them one by one.
    """
    count = len(along)
    gap = (sum_square - count * math.fsum(along)) / count
    return tuple(count * product + gap for product in along)


def _expected_square(mean: Tensor, square: Tensor, count: int, rows: int, batch_size: int | None) -> Tensor:
    """E[g_B^2] entry by entry from the mean and the mean square of `count` chunks of `rows` each.

    Never below the mean's own square, so that no entry of mean / sqrt(square) passes 1.
    """
    if batch_size is None or batch_size == rows or count < 2:
        return square
    variance = (square - mean.square()).mul_(count / (count - 1)).clamp_(min=0.0)
    return mean.square().add_(variance, alpha=rows / batch_size)
