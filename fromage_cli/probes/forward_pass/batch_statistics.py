"""How far the running statistics of BatchNorm, which evaluation uses, are from those of the batch.

    KL(batch || running) = ½ (ln(v' / v) + (v + (m - m')²) / v' - 1), the mean over channels

m, v: mean and unbiased variance of what reaches the layer, m', v': the running ones, each variance with the layer's
epsilon. It is the distance, in nats, of what the layer passes on in evaluation from mean 0 and variance 1.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fromage_cli.problem.networks.layers import unwrapped


@dataclass(frozen=True)
class LayerStatistics:
    """The running statistics of one layer beside those of the batch."""

    name: str
    channels: int
    tracked: bool
    """Whether the layer has remembered any batch: its running statistics are not those that it was made with."""
    distance: float
    """The mean over channels of KL(batch || running), nats."""
    expected_distance: float
    """The mean of it over batches of so many rows where both are of one normal distribution."""


class StatisticsWatcher:
    """Sees what reaches every BatchNorm layer with running statistics, over one or several passes.

    The rows of all calls are pooled.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = {
            name: module
            for name, module in unwrapped(model).named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        }
        self._seen: dict[str, _Moments] = {}

    def __enter__(self) -> "StatisticsWatcher":
        self._hooks = ExitStack()
        for name, module in self.layers.items():
            handle = module.register_forward_pre_hook(self._sees(name), with_kwargs=True)
            self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._hooks.close()

    def _sees(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            (given,) = (*inputs, *named.values())
            self._seen.setdefault(name, _Moments()).add(given.detach())

        return hook

    @property
    def statistics(self) -> tuple[LayerStatistics, ...]:
        """What was seen so far beside the running statistics as they are now, in the order of the calls."""
        return tuple(_compared(name, self.layers[name], seen) for name, seen in self._seen.items())


class _Moments:
    """Mean and variance of each channel over all values that were added."""

    def __init__(self) -> None:
        self.rows, self.count = 0, 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        """Sum of the squared distances from the mean."""

    def add(self, given: Tensor) -> None:
        """Adds rows × channels × everything else."""
        values = given.float() if given.itemsize < 4 else given
        over = [axis for axis in range(values.ndim) if axis != 1]
        spread, centre = (found.double() for found in torch.var_mean(values, over, correction=0))
        count = values.numel() // values.shape[1]
        whole, apart = self.count + count, centre - self.mean
        self.squares = self.squares + spread * count + apart.square() * (self.count * count / whole)
        self.mean = self.mean + apart * (count / whole)
        self.rows, self.count = self.rows + values.shape[0], whole


def _compared(name: str, layer: _BatchNorm, seen: _Moments) -> LayerStatistics:
    assert layer.running_mean is not None and layer.running_var is not None  # as the watcher chose it
    mean, variance = layer.running_mean.double(), layer.running_var.double()
    tracked = bool(layer.num_batches_tracked) or bool((mean != 0.0).any()) or bool((variance != 1.0).any())
    spread = torch.as_tensor(seen.squares) / max(1, seen.count - 1)
    distances = gaussian_divergence(torch.as_tensor(seen.mean), spread + layer.eps, mean, variance + layer.eps)
    return LayerStatistics(name, layer.num_features, tracked, float(distances.mean()), expected_divergence(seen.rows))


def gaussian_divergence(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(other)) of each entry, in nats."""
    ratio = variance / other_variance
    return 0.5 * (ratio - 1.0 - ratio.log() + (mean - other_mean).square() / other_variance)


def expected_divergence(count: int) -> float:
    """The mean of KL(sample || truth) for `count` independent values of a normal distribution; about 1 / count.

    ½ (1 / n + ln((n - 1) / 2) - ψ((n - 1) / 2)): the mean's error, and the logarithm of the unbiased variance, whose
    (n - 1)-fold is a χ². Infinite for a single value.
    """
    if count < 2:
        return math.inf
    half = 0.5 * (count - 1)
    return 0.5 * (1.0 / count + math.log(half) - float(torch.digamma(torch.tensor(half, dtype=torch.float64))))
