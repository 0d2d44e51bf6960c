"""Running statistics beside those of the batch: torch's own divergence, a layer without memory, chance."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from fromage_cli.probes.forward_pass.batch_statistics import (
    LayerStatistics,
    StatisticsWatcher,
    expected_divergence,
    gaussian_divergence,
)


def watched(model: nn.Module, *passes: Tensor) -> tuple[LayerStatistics, ...]:
    watcher = StatisticsWatcher(model.eval())
    for rows in passes:
        with watcher, torch.no_grad():
            model(rows)
    return watcher.statistics


def test_the_divergence_is_torchs() -> None:
    means, others, variances, other_variances = torch.randn(4, 20, dtype=torch.float64)
    variances, other_variances = variances.exp(), other_variances.exp()
    expected = kl_divergence(Normal(means, variances.sqrt()), Normal(others, other_variances.sqrt()))
    assert torch.allclose(gaussian_divergence(means, variances, others, other_variances), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(64, 6), (16, 6, 5), (8, 6, 3, 4)])
def test_the_distance_is_the_mean_over_channels(shape: tuple[int, ...]) -> None:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    layer = kinds[len(shape)](6)
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.copy_(torch.randn(6))
    layer.running_var.copy_(torch.rand(6) + 0.5)
    x = 2.0 * torch.randn(shape) + 1.0
    values = x.transpose(0, 1).flatten(1).double()
    batch = Normal(values.mean(1), (values.var(1) + layer.eps).sqrt())
    running = Normal(layer.running_mean.double(), (layer.running_var.double() + layer.eps).sqrt())
    (found,) = watched(nn.Sequential(layer), x)
    assert found.distance == pytest.approx(float(kl_divergence(batch, running).mean()), rel=1e-5)
    assert (found.name, found.channels, found.tracked) == ("0", 6, True)
    assert found.expected_distance == expected_divergence(shape[0])


def test_passes_are_pooled() -> None:
    layer, x = nn.BatchNorm2d(5), 3.0 * torch.randn(24, 5, 4, 4) - 2.0
    whole, parts = watched(layer, x)[0], watched(layer, x[:1], x[1:17], x[17:])[0]
    assert parts.distance == pytest.approx(whole.distance, rel=1e-5)
    assert parts.expected_distance == whole.expected_distance


def test_a_layer_that_remembers_this_batch_alone_is_at_no_distance() -> None:
    layer, x = nn.BatchNorm1d(7, momentum=1.0), torch.randn(32, 7) * 5.0 + 3.0
    assert not watched(layer, x)[0].tracked
    layer.train()(x)
    (found,) = watched(layer, x)
    assert found.tracked and 0.0 <= found.distance < 1e-9


def test_a_channel_that_never_changes_is_at_no_distance() -> None:
    layer = nn.BatchNorm1d(2)
    layer.load_state_dict({**layer.state_dict(), "running_var": torch.zeros(2)})
    assert watched(layer, torch.zeros(8, 2))[0].distance == 0.0


def test_what_keeps_no_statistics_is_left_out() -> None:
    layers = nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4), nn.InstanceNorm1d(4)
    assert watched(nn.Sequential(*layers), torch.randn(8, 4, 4)) == ()


@pytest.mark.parametrize("count", [2, 3, 8, 100])
def test_the_distance_by_chance(count: int) -> None:
    """Over many channels of one normal distribution; ½ (1 / n + ln((n - 1) / 2) - ψ((n - 1) / 2))."""
    layer = nn.BatchNorm1d(400_000 // count, eps=1e-12)
    found = watched(layer, torch.randn(count, layer.num_features, dtype=torch.float64).to(torch.float32))[0]
    assert found.distance == pytest.approx(expected_divergence(count), rel=0.03)


def test_the_distance_by_chance_is_about_one_over_the_rows() -> None:
    assert expected_divergence(10_000) == pytest.approx(1e-4, rel=1e-3)
    assert expected_divergence(1) == math.inf


def test_half_precision_is_averaged_in_single() -> None:
    x = torch.full((4096, 2), 300.0).bfloat16()
    layer = nn.BatchNorm1d(2).bfloat16()
    layer.load_state_dict({**layer.state_dict(), "running_mean": torch.full((2,), 300.0)})
    assert watched(layer, x)[0].distance == pytest.approx(0.5 * (1e-5 - 1.0 - math.log(1e-5)), rel=1e-3)
