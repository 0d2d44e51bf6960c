"""The estimates against Gaussian gradients whose signal and noise are known."""

import math

import pytest
import torch

from fromage_cli.theory.gradient_noise import (
    ChunkProducts,
    NoiseEstimate,
    cosine_error,
    cosine_to_step_error,
    estimate_noise,
    jackknife_error,
    noise_scale_range,
)


def chunks_of(gradients: torch.Tensor, rows: int) -> ChunkProducts:
    total = gradients.sum(0)
    return ChunkProducts(rows, tuple((gradients**2).sum(1).tolist()), tuple((gradients @ total).tolist()))


def test_two_chunks_by_hand() -> None:
    found = chunks_of(torch.tensor([[3.0, 0.0], [1.0, 2.0]]), 5).whole
    assert found.squared_norm == pytest.approx(3.0)  # <g_1, g_2>
    assert found.variance == pytest.approx(5 * 4.0)  # 5 ||g_1 - g_2||^2 / 2


def test_the_estimates_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, deviation, rows, count = torch.tensor([0.3, -0.4, 0.0], dtype=torch.float64), 2.0, 4, 6
    found = []
    for _ in range(4000):
        noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        found.append(chunks_of(signal + deviation / math.sqrt(rows) * noise, rows).whole)
    assert sum(each.squared_norm for each in found) / 4000 == pytest.approx(0.25, abs=0.03)
    assert sum(each.variance for each in found) / 4000 == pytest.approx(12.0, rel=0.02)


def test_leaving_one_out_is_as_if_it_had_never_been() -> None:
    gradients = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = chunks_of(gradients, 3)
    for index in range(5):
        alone = chunks_of(torch.cat([gradients[:index], gradients[index + 1 :]]), 3).whole
        assert whole.without(index).squared_norm == pytest.approx(alone.squared_norm)
        assert whole.without(index).variance == pytest.approx(alone.variance)


def test_the_cosine_is_that_of_a_batch_of_any_size() -> None:
    assert NoiseEstimate(9.0, 64.0).cosine(4) == pytest.approx(3 / 5)
    assert NoiseEstimate(-9.0, 64.0).cosine(4) == pytest.approx(-3 / 5)
    assert NoiseEstimate(0.0, 0.0).cosine(4) == 0.0


@pytest.mark.parametrize(("signal", "size"), [(0.5, 8), (0.1, 8), (0.0, 8), (0.1, 1), (0.1, 512)])
def test_the_error_is_as_large_as_the_spread_of_repetitions(signal: float, size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    mean = torch.full((20,), signal, dtype=torch.float64)
    cosines, errors = [], []
    for _ in range(300):
        chunks = chunks_of(mean + torch.randn(16, 20, generator=generator, dtype=torch.float64), 1)
        cosines.append(max(chunks.whole.cosine(size), 0.0))
        error = cosine_error(chunks, size)
        assert error is not None
        errors.append(error)
    spread = float(torch.tensor(cosines).std())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.25)


def test_the_noise_scale_lies_within_its_range_as_often_as_it_should() -> None:
    generator = torch.Generator().manual_seed(5)
    inside, unbounded = 0, 0
    for _ in range(300):
        gradients = 0.5 + torch.randn(16, 20, generator=generator, dtype=torch.float64)
        found = noise_scale_range([chunks_of(gradients[:, :5], 1), chunks_of(gradients[:, 5:], 1)])
        assert found is not None
        low, high = found
        inside += low <= 20.0 / 5.0 <= (high or math.inf)
        unbounded += high is None
    assert 0.6 < inside / 300 < 0.8 and unbounded == 0
    assert noise_scale_range([chunks_of(torch.ones(2, 2), 1)]) is None
    assert noise_scale_range([chunks_of(torch.ones(4, 2), 1)]) is None
    drowned = noise_scale_range([chunks_of(torch.randn(4, 50, generator=generator, dtype=torch.float64), 1)])
    assert drowned is None or drowned[1] is None


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = [1.0, 4.0, 2.0, 8.0]
    left_out = [(sum(values) - value) / 3 for value in values]
    assert jackknife_error(left_out) == pytest.approx(float(torch.tensor(values).std()) / 2)
    assert jackknife_error([1.0, 2.0]) is None
    assert cosine_error(chunks_of(torch.ones(2, 2), 1), 1) is None
    assert estimate_noise(4.0, 2.0, 2, 1).variance == 0.0


def test_the_error_of_a_cosine_to_a_fixed_step_is_the_spread_of_repetitions() -> None:
    generator = torch.Generator().manual_seed(4)
    signal, step = torch.full((20,), 0.5, dtype=torch.float64), torch.linspace(0, 1, 20, dtype=torch.float64)
    cosines, errors = [], []
    for _ in range(300):
        gradients = signal + torch.randn(16, 20, generator=generator, dtype=torch.float64)
        cosines.append(float(torch.cosine_similarity(gradients.mean(0), step, dim=0)))
        error = cosine_to_step_error(chunks_of(gradients, 1), (gradients @ step).tolist(), float(step.norm()))
        assert error is not None
        errors.append(error)
    assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(cosines).std()), rel=0.25)
    assert cosine_to_step_error(chunks_of(torch.ones(4, 2), 1), [1.0] * 4, 0.0) is None
