from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.missing import found_of
from fromage_cli.probes.curvature.lanczos import Band, largest_eigenvalues

Matrix = torch.Tensor

SPECTRA = {
    "spread": [9.0, 4.0, 1.0, *np.linspace(-0.5, 0.5, 40)],
    "clustered": [5.0, 4.9999, 4.9998, *np.linspace(0.0, 4.0, 60)],
    "the same three times": [5.0, 5.0, 5.0, 1.0, 0.5, *[0.1] * 20],
    "negative": list(-np.linspace(0.1, 7.0, 30)),
    "mostly negative": [*np.linspace(-20.0, 0.0, 39), 0.3],
    "rank deficient": [3.0, 1.0, *[0.0] * 30],
    "one by one": [2.0],
    "one by one, negative": [-2.0],
    "zero": [0.0] * 5,
    "identity": [1.0] * 6,
}

entries = st.floats(-100, 100).map(lambda value: value if abs(value) > 1e-100 else 0.0)
"""Eigenvalues whose squares are numbers."""
single_entries = entries.map(lambda value: value if abs(value) > 1e-18 else 0.0)
"""The same in single precision."""


def with_spectrum(values: list[float], seed: int = 0) -> Matrix:
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


def product_with(matrix: Matrix) -> Callable[[Matrix], Matrix]:
    return lambda vector: matrix @ vector


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_eigenvalues_are_those_of_numpy(name: str, count: int, dtype: torch.dtype) -> None:
    matrix = with_spectrum(SPECTRA[name]).to(dtype)
    exact = np.linalg.eigvalsh(matrix.double().numpy())[::-1][:count]
    found = largest_eigenvalues(product_with(matrix), matrix[0], count=count, tolerance=1e-4)
    assert found.converged
    assert len(found.eigenvalues) == min(count, len(matrix))
    for pair, truth in zip(found.eigenvalues, exact, strict=True):
        assert pair.value == pytest.approx(truth, rel=2e-4, abs=1e-5)
        assert abs(pair.value - truth) <= pair.residual + 1e-15
        assert pair.residual <= max(1e-4 * abs(pair.value), 1e-4 * np.abs(SPECTRA[name]).max())


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(entries, min_size=1, max_size=30),
    count=st.integers(1, 4),
    products=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_a_residual_bounds_the_distance_to_the_spectrum_and_no_value_is_too_large(
    values: list[float], count: int, products: int, seed: int
) -> None:
    matrix = with_spectrum(values, seed)
    exact = np.linalg.eigvalsh(matrix.numpy())
    found = largest_eigenvalues(product_with(matrix), matrix[0], count=count, max_products=products, seed=seed)
    for rank, pair in enumerate(found.eigenvalues):
        assert np.abs(exact - pair.value).min() <= pair.residual + 1e-12 * np.abs(values).max()
        assert pair.value <= exact[-1 - rank] + 1e-12 * max(np.abs(values).max(), 1.0)


def with_hidden_first(values: list[float], overlap: float) -> Matrix:
    """A matrix whose first eigenvector has so small a share in the start vector that is drawn from seed 0."""
    size = len(values)
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn /= drawn.norm()
    vectors = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first = vectors[:, 0] - (drawn @ vectors[:, 0]) * drawn
    vectors[:, 0] = overlap * drawn + (1.0 - overlap**2) ** 0.5 * first / first.norm()
    basis = torch.linalg.qr(vectors)[0]
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize("overlap", [0.0, 1e-4])
@pytest.mark.parametrize("bulk", [0.1, 0.3])
def test_a_start_beside_the_first_eigenvector_does_not_settle_on_the_second(
    overlap: float, bulk: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the further start vector the value is 1.4 % low, with a small residual."""
    matrix = with_hidden_first([1.014, 1.0, 0.6, 0.5, 0.45, *np.linspace(0.0, bulk, 295)], overlap)
    first = torch.linalg.eigh(matrix)[1][:, -1]
    gradient = (
        0.2 * first + torch.randn(300, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 300**0.5
    )
    found = largest_eigenvalues(product_with(matrix), gradient)
    assert found.converged
    assert found.eigenvalues[0].value == pytest.approx(1.014, rel=1e-4)
    assert abs(found.eigenvalues[0].value - 1.014) <= found.eigenvalues[0].residual <= 1e-3 * 1.014
    monkeypatch.setattr("fromage_cli.probes.curvature.lanczos.CHECK", 0.0)
    missed = largest_eigenvalues(product_with(matrix), gradient)
    assert missed.converged and missed.eigenvalues[0].value == pytest.approx(1.0, rel=1e-4)
    assert missed.products < found.products <= 2 * missed.products


def test_a_second_eigenvector_that_was_missed_is_found_among_several() -> None:
    matrix = with_hidden_first([3.0, 2.0, 1.9, *np.linspace(0.0, 1.0, 200)], 0.0)
    exact = np.linalg.eigvalsh(matrix.numpy())[::-1][:2]
    found = largest_eigenvalues(product_with(matrix), torch.zeros(203, dtype=torch.float64), count=2)
    assert [pair.value for pair in found.eigenvalues] == pytest.approx(exact, rel=1e-4)


def test_one_seed_gives_one_answer_and_few_products_do() -> None:
    matrix = with_spectrum([30.0, *np.linspace(0.0, 10.0, 300)])
    first, second = (largest_eigenvalues(product_with(matrix), matrix[0], seed=3) for _ in range(2))
    assert first.eigenvalues == second.eigenvalues
    assert first.products <= 13


def test_too_few_products_are_told() -> None:
    matrix = with_spectrum(list(np.linspace(0.0, 1.0, 200)))
    found = largest_eigenvalues(product_with(matrix), matrix[0], max_products=4)
    assert not found.converged
    assert found.products == 4
    assert found.eigenvalues[0].residual > 1e-3


def test_products_that_are_not_symmetric_are_told_and_not_repeated_in_vain() -> None:
    matrix = with_spectrum([30.0, *np.linspace(0.0, 10.0, 100)])
    noise = 0.2 * torch.randn(101, 101, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = largest_eigenvalues(product_with(matrix + noise), matrix[0])
    assert found.inexact and not found.converged
    assert found.products < 20
    exact = np.linalg.eigvalsh((matrix + (noise + noise.T) / 2).numpy())[-1]
    assert abs(found.eigenvalues[0].value - exact) <= found.eigenvalues[0].residual


def test_a_product_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NumericalError, match="curvature is not finite"):
        largest_eigenvalues(lambda vector: vector / 0.0, torch.ones(3))


def test_what_was_found_before_a_limit_is_kept() -> None:
    matrix = with_spectrum(list(np.linspace(0.0, 1.0, 200)))
    made = []

    def limited(vector: Matrix) -> Matrix:
        if len(made) == 3:
            raise ResourceError("The time limit was reached.")
        made.append(vector)
        return matrix @ vector

    found, limit = found_of(largest_eigenvalues(limited, matrix[0]))
    assert limit is not None
    assert (found.products, len(found.eigenvalues), found.converged) == (3, 1, False)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(single_entries, min_size=2, max_size=40),
    count=st.integers(1, 3),
    seed=st.integers(0, 5),
    tolerance=st.sampled_from([1e-2, 1e-3, 1e-5]),
)
def test_in_single_precision_nothing_is_above_the_truth_by_more_than_its_bound(
    values: list[float], count: int, seed: int, tolerance: float
) -> None:
    matrix = with_spectrum(values, seed).float()
    exact = np.linalg.eigvalsh(matrix.double().numpy())
    found = largest_eigenvalues(product_with(matrix), matrix[0], count=count, tolerance=tolerance, seed=seed)
    for rank, pair in enumerate(found.eigenvalues):
        assert np.abs(exact - pair.value).min() <= pair.residual
        assert pair.value - exact[-1 - rank] <= pair.residual


@pytest.mark.parametrize("value", [1e-45, -1e-45, 1e-39])
def test_a_matrix_of_subnormal_numbers_has_eigenvalues_near_zero(value: float) -> None:
    matrix = with_spectrum([0.0, value]).float()
    found = largest_eigenvalues(product_with(matrix), matrix[0])
    assert abs(found.eigenvalues[0].value) < 1e-38


def test_a_million_entries_in_single_precision_lose_nothing() -> None:
    """A diagonal matrix: norms and inner products summed naively would be off by more than the residual says."""
    size = 1_000_000
    diagonal = torch.linspace(0.0, 1.0, size)
    diagonal[123_456] = 3.0
    found = largest_eigenvalues(lambda vector: diagonal * vector, diagonal, tolerance=1e-5)
    assert found.converged
    assert found.eigenvalues[0].value == pytest.approx(3.0, rel=1e-6)
    assert found.eigenvalues[0].value - 3.0 <= found.eigenvalues[0].residual


def test_the_basis_stays_orthogonal_over_many_products() -> None:
    matrix = with_spectrum(list(np.linspace(0.0, 1.0, 120))).float()
    band = Band(matrix[0], torch.Generator().manual_seed(0))
    band.draw()
    for _ in range(60):
        band.extend(lambda vector: matrix @ vector)
    basis = torch.stack([band.basis[index] for index in range(len(band.basis))]).double()
    assert len(basis) == 61
    torch.testing.assert_close(basis @ basis.T, torch.eye(61, dtype=torch.float64), rtol=0, atol=1e-6)
