import math

import pytest
import torch
from scipy import stats

from fromage_cli.probes.lines.random_direction import LARGEST_TABLE, PART, RandomTensors
from fromage_cli.theory.singular_values import spectral_norm

SINGLE = torch.zeros(1)


@pytest.mark.parametrize("shape", [(7, 9), (300, 400), (3, 3, 64, 128)])
def test_entries_are_standard_normal(shape: tuple[int, ...]) -> None:
    drawn = RandomTensors(0, math.prod(shape), SINGLE).draw("weight", torch.Size(shape))
    assert drawn.shape == shape
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3


def test_entries_are_uncorrelated_over_seeds() -> None:
    count = 400
    drawn = torch.stack([RandomTensors(seed, 1, SINGLE).draw("w", torch.Size([4])) for seed in range(count)])
    covariance = (drawn.T @ drawn / count).double()
    assert float((covariance - torch.eye(4, dtype=torch.float64)).abs().max()) < 4 * math.sqrt(2 / count)


def test_parts_and_tensors_differ_from_each_other() -> None:
    table = RandomTensors(0, 4 * PART, SINGLE)
    parts = [*table.draw("first", torch.Size([3 * PART])).split(PART), table.draw("second", torch.Size([PART]))]
    for index, part in enumerate(parts):
        for other in parts[:index]:
            assert abs(float(part @ other)) < 5 * math.sqrt(PART)


def test_the_same_tensor_comes_again_on_every_call_and_in_every_precision() -> None:
    shape = torch.Size([PART + 5])
    table = RandomTensors(3, PART + 5, SINGLE)
    first = table.draw("weight", shape)
    assert torch.equal(first, table.draw("weight", shape))
    assert torch.equal(first, RandomTensors(3, PART + 5, SINGLE).draw("weight", shape))
    assert not torch.equal(first, RandomTensors(4, PART + 5, SINGLE).draw("weight", shape))
    double = RandomTensors(3, PART + 5, SINGLE.double()).draw("weight", shape)
    torch.testing.assert_close(double, first.double(), rtol=1e-5, atol=1e-6)


def test_a_matrix_larger_than_the_table_has_the_spectral_norm_of_a_random_one() -> None:
    rows, columns = 1100, 1024
    assert rows * columns > LARGEST_TABLE
    drawn = RandomTensors(0, rows * columns, SINGLE).draw("weight", torch.Size([rows, columns]))
    assert spectral_norm(drawn) == pytest.approx(math.sqrt(rows) + math.sqrt(columns), rel=0.03)


@pytest.mark.parametrize("shape", [(), (5,), (2, PART), (3, PART + 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adding_is_what_adding_the_drawn_tensor_is(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    table = RandomTensors(1, math.prod(shape), SINGLE.to(dtype))
    origin = torch.randn(shape, dtype=dtype)
    out = torch.empty(shape, dtype=dtype)
    table.add("weight", origin, 0.3, out)
    assert torch.equal(out, torch.add(origin, table.draw("weight", torch.Size(shape)), alpha=0.3))


@pytest.mark.parametrize("apart", ["origin", "out"])
def test_adding_heeds_the_order_of_memory(apart: str) -> None:
    table = RandomTensors(1, 12, SINGLE)
    origin, out = torch.randn(3, 4), torch.empty(3, 4)
    expected = origin + 2.0 * table.draw("weight", origin.shape)
    origin = origin.T.contiguous().T if apart == "origin" else origin
    out = out.T.contiguous().T if apart == "out" else out
    table.add("weight", origin, 2.0, out)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
