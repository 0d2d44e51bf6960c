import pytest
import torch

from fromage_cli.probes.curvature import basis as basis_module
from fromage_cli.probes.curvature.basis import SIDE_BY_SIDE, KrylovBasis


@pytest.mark.parametrize("count", [1, SIDE_BY_SIDE, SIDE_BY_SIDE + 3])
def test_coefficients_and_differences_are_those_of_one_matrix(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_module, "CHUNK", 7)
    torch.manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(40, count, dtype=torch.float64))[0].T  # [count, 40], orthonormal rows
    other = torch.randn(40, dtype=torch.float64)
    basis = KrylovBasis(other)
    for vector in vectors:
        basis.append(vector)
    coefficients = basis.coefficients(other)
    assert len(basis) == len(coefficients) == count and torch.equal(basis[count - 1], vectors[-1])
    assert coefficients == pytest.approx((vectors @ other).tolist())
    rest = basis.subtract(other.clone(), coefficients)
    assert torch.allclose(rest, other - vectors.T @ (vectors @ other)) and torch.allclose(
        vectors @ rest, rest.new_zeros(count)
    )


def test_an_empty_basis_takes_nothing_away() -> None:
    vector = torch.ones(3)
    basis = KrylovBasis(vector)
    assert basis.coefficients(vector) == [] and torch.equal(basis.subtract(vector.clone(), []), vector)
