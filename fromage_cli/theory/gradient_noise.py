"""How much of a minibatch gradient is signal: unbiased estimates from chunks, and what follows for other batch sizes.

With mean gradients g_1 … g_M of disjoint chunks of b samples each,

    ||g||^2 ~ (||sum g_i||^2 - sum ||g_i||^2) / (M (M - 1)),
    tr Sigma ~ b (sum ||g_i||^2 - ||sum g_i||^2 / M) / (M - 1)       (per sample),

and a batch of B samples has E||g_B||^2 = ||g||^2 + tr Sigma / B. Source: McCandlish et al., *An empirical model of
large-batch training*, 2018, appendix A.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ChunkProducts:
    """Inner products of the chunks' gradients of one tensor."""

    rows: int
    """b, samples of each chunk."""
    squares: tuple[float, ...]
    """||g_i||^2."""
    products: tuple[float, ...]
    """<g_i, sum_j g_j>."""

    @property
    def count(self) -> int:
        """M."""
        return len(self.squares)

    def without(self, index: int) -> "NoiseEstimate":
        """The estimates of all chunks but one."""
        total = math.fsum(self.products)
        sum_square = total - 2.0 * self.products[index] + self.squares[index]
        return estimate_noise(sum_square, math.fsum(self.squares) - self.squares[index], self.count - 1, self.rows)

    @property
    def whole(self) -> "NoiseEstimate":
        """The estimates of all chunks."""
        return estimate_noise(math.fsum(self.products), math.fsum(self.squares), self.count, self.rows)


@dataclass(frozen=True)
class NoiseEstimate:
    """Unbiased estimates for one tensor."""

    squared_norm: float
    """||g||^2; below zero where noise dominates."""
    variance: float
    """tr Sigma, per sample."""

    def cosine(self, batch_size: float) -> float:
        """||g|| / sqrt(E||g_B||^2), with the sign of the estimate of ||g||^2."""
        size = abs(self.squared_norm)
        whole = size + self.variance / batch_size
        return math.copysign(math.sqrt(size / whole), self.squared_norm) if whole > 0.0 else 0.0

    @property
    def signal(self) -> float:
        """||g||^2 / tr Sigma; 0 without noise."""
        return self.squared_norm / self.variance if self.variance > 0.0 else 0.0


def estimate_noise(sum_square: float, squares: float, count: int, rows: int) -> NoiseEstimate:
    """From ||sum g_i||^2 and sum ||g_i||^2 of `count` chunks."""
    squared_norm = (sum_square - squares) / (count * (count - 1))
    variance = rows * (squares - sum_square / count) / (count - 1)
    return NoiseEstimate(squared_norm, max(variance, 0.0))


def jackknife_error(leave_one_out: Sequence[float]) -> float | None:
    """The jackknife's standard error, sqrt((M-1)/M sum (x_-i - mean)^2); None for fewer than three."""
    count = len(leave_one_out)
    if count < 3:
        return None
    mean = math.fsum(leave_one_out) / count
    return math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in leave_one_out))


def cosine_error(chunks: ChunkProducts, batch_size: float) -> float | None:
    """The standard error of the cosine (0 where noise dominates); None for fewer than three chunks.

    It is half the way between the cosines at r + s and r - s. Here r is ||g||^2 / tr Sigma, and s the jackknife's
    error of r. Where noise is small, that is the jackknife's error of the cosine.
    It is finite where r is 0 and the cosine, which is its root, is not differentiable.
    """
    if chunks.count < 3:
        return None
    ratio = max(chunks.whole.signal, 0.0)
    error = jackknife_error([chunks.without(index).signal for index in range(chunks.count)]) or 0.0
    ends = (NoiseEstimate(max(ratio + side * error, 0.0), 1.0).cosine(batch_size) for side in (1.0, -1.0))
    return (next(ends) - next(ends)) / 2.0


def signal_doubt(chunks: ChunkProducts) -> float:
    """The standard error of ||g||^2 over the square of the mean gradient that it is estimated from, at most 1.

    1 for fewer than three chunks, which give no error.
    """
    seen = math.fsum(chunks.products) / chunks.count**2
    if chunks.count < 3 or seen <= 0.0:
        return 1.0
    error = jackknife_error([chunks.without(index).squared_norm for index in range(chunks.count)]) or 0.0
    return min(error / seen, 1.0)


def noise_scale_range(chunks: Sequence[ChunkProducts]) -> tuple[float, float | None] | None:
    """The noise scale, one standard error down and one up; None for fewer than three chunks or without noise.

    tr Sigma / ||g||^2 with sums over tensors: the jackknife's error is that of its inverse, in which noise is linear.
    The upper end is None where the inverse may be zero.
    """
    count = min((each.count for each in chunks), default=0)
    inverse = _signal([each.whole for each in chunks])
    if count < 3 or inverse is None:
        return None
    left_out = [_signal([each.without(index) for each in chunks]) or 0.0 for index in range(count)]
    error = jackknife_error(left_out) or 0.0
    above, below = inverse + error, inverse - error
    return (1.0 / above, 1.0 / below if below > 0.0 else None) if above > 0.0 else None


def _signal(found: Sequence[NoiseEstimate]) -> float | None:
    """Sum ||g||^2 / sum tr Sigma; None without noise."""
    variance = math.fsum(each.variance for each in found)
    return math.fsum(each.squared_norm for each in found) / variance if variance > 0.0 else None


def cosine_to_step_error(chunks: ChunkProducts, along: Sequence[float], step_norm: float) -> float | None:
    """The jackknife's standard error of the cosine between the mean gradient and a fixed step u.

    `along`: <g_i, u> of every chunk; `step_norm`: ||u||. None for fewer than three chunks, or where either vanishes.
    """
    total, left_out = math.fsum(chunks.products), []
    if chunks.count < 3 or step_norm <= 0.0:
        return None
    for product, square, inner in zip(chunks.products, chunks.squares, along, strict=True):
        size = total - 2.0 * product + square
        if size <= 0.0:
            return None
        left_out.append((math.fsum(along) - inner) / (math.sqrt(size) * step_norm))
    return jackknife_error(left_out)
