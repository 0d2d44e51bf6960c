import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.accumulation import CHUNK, distance, distances, inner_product, norm, squared_norm


def test_norm_of_a_constant_is_exact_where_float32_loses_digits() -> None:
    size = 20_000_003
    tensor = torch.full((size,), 0.1)
    exact = float(torch.tensor(0.1).double()) * math.sqrt(size)
    assert norm(tensor) == pytest.approx(exact, rel=1e-12)


def test_tiny_entries_do_not_underflow() -> None:
    assert norm(torch.full((4,), 1e-30)) == pytest.approx(2e-30, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_dtype_is_widened_before_it_is_squared(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, CHUNK - 1, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert squared_norm(tensor) == pytest.approx(float(tensor.double().square().sum()), rel=1e-12)


def test_views_without_contiguous_memory_are_read_in_order() -> None:
    first, second = torch.randn(70, 1000, dtype=torch.float64).T, torch.randn(1000, 70, dtype=torch.float64)
    assert inner_product(first, second) == pytest.approx(float((first * second).sum()), rel=1e-12)
    assert distance(first, second) == pytest.approx(float((first - second).norm()), rel=1e-12)


def test_scalars_and_empty_tensors_have_norms() -> None:
    assert norm(torch.tensor(-3.0)) == 3.0
    assert norm(torch.empty(0, 5)) == 0.0


@given(
    st.lists(
        st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-100), min_size=1, max_size=50
    ),
    st.integers(0, 2**31),
)
def test_cauchy_schwarz_and_triangle_hold(values: list[float], seed: int) -> None:
    first = torch.tensor(values, dtype=torch.float64)
    second = torch.randn(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert abs(inner_product(first, second)) <= norm(first) * norm(second) * (1 + 1e-12)
    assert distance(first, second) <= (norm(first) + norm(second)) * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [100, CHUNK + 7])
def test_a_small_difference_of_large_tensors_keeps_its_digits(dtype: torch.dtype, size: int) -> None:
    first = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    second = (first.double() * (1 + 1e-2)).to(dtype)
    exact = float((first.double() - second.double()).norm())
    assert distance(first, second) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1.0, 1e15, 1e25])
@pytest.mark.parametrize("size", [CHUNK + 1, 3 * CHUNK - 7, 4 * CHUNK])
def test_differences_by_rows_keep_their_digits_in_all_of_the_range(scale: float, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    spread = torch.logspace(-6, 6, size)[torch.randperm(size, generator=generator)]
    first = torch.randn(size, generator=generator) * spread * scale
    second = first * (1 + 0.3 * torch.rand(size, generator=generator))
    assert distance(first, second) == pytest.approx(float((first - second).double().norm()), rel=3e-8)
    assert distance(first, first) == 0.0
    first[-1] = math.nan
    assert math.isnan(distance(first, second))


def test_parameters_are_reduced_without_a_graph() -> None:
    parameter = torch.nn.Parameter(torch.full((4,), 2.0))
    assert norm(parameter) == 4.0
    assert distance(parameter, torch.zeros(4)) == 4.0
    assert inner_product(parameter, parameter) == 16.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=8), st.integers(0, 2**31))
def test_distances_of_many_are_those_of_each(dtype: torch.dtype, shapes: list[list[int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    firsts = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    seconds = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    exact = [float((first.double() - second.double()).norm()) for first, second in zip(firsts, seconds, strict=True)]
    assert distances(firsts, seconds) == pytest.approx(exact, rel=1e-6)
    assert distances(firsts, seconds) == pytest.approx(list(map(distance, firsts, seconds)), rel=1e-14)
