import pytest
import torch

from fromage_cli.theory.singular_values import TINY, as_matrix, spectral_norm, stable_rank


@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 3), (3, 500), (96, 96), (97, 130), (300, 200), (64, 3, 3, 3), (128, 64, 3, 3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_spectral_norm_is_the_largest_singular_value(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    exact = float(torch.linalg.matrix_norm(as_matrix(tensor).double(), ord=2))
    assert spectral_norm(tensor) == pytest.approx(exact, rel=2e-4)
    assert spectral_norm(tensor) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1e-24, 1e20, 1e36])
@pytest.mark.parametrize("shape", [(20, 30), (200, 300)])
def test_tiny_and_huge_entries_keep_their_stable_rank(shape: tuple[int, ...], scale: float) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    assert stable_rank(matrix * scale) == pytest.approx(stable_rank(matrix.double()), rel=1e-3)


def test_a_rank_one_matrix_has_stable_rank_one() -> None:
    vector = torch.arange(1.0, 201.0)
    assert stable_rank(torch.outer(vector, vector)) == pytest.approx(1.0, rel=1e-4)


def test_an_identity_has_full_stable_rank() -> None:
    assert stable_rank(torch.eye(150)) == pytest.approx(150, rel=1e-4)


def test_a_zero_tensor_has_stable_rank_one_and_no_spectral_norm() -> None:
    assert stable_rank(torch.zeros(200, 200)) == 1.0
    assert spectral_norm(torch.zeros(200, 200)) == 0.0


def test_matrix_rows_are_output_channels() -> None:
    assert as_matrix(torch.zeros(8, 3, 5, 5)).shape == (8, 75)


@pytest.mark.parametrize("size", [40, 120])
@pytest.mark.parametrize("factor", [1e-30, 0.99 * TINY, 1.01 * TINY, 1e-3, 1e8, 1.01 / TINY, 1e30])
def test_the_spectral_norm_scales_with_its_tensor(size: int, factor: float) -> None:
    matrix = torch.randn(size, size + 3, generator=torch.Generator().manual_seed(0))
    exact = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert spectral_norm(matrix * factor, 1e-6) == pytest.approx(exact * factor, rel=1e-5)
    assert spectral_norm(-matrix.abs() * factor, 1e-6) == pytest.approx(spectral_norm(matrix.abs(), 1e-6) * factor)
