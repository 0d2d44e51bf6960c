import pytest
import torch
from torch import Tensor

from fromage_cli.errors import ResourceError
from fromage_cli.probes.curvature.krylov_function import KrylovSpace


@pytest.fixture
def matrix() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    return factor @ factor.T / 30.0 + 0.05 * torch.eye(30, dtype=torch.float64)


@pytest.fixture
def start() -> Tensor:
    return torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def conjugate_gradients(matrix: Tensor, start: Tensor, products: int) -> Tensor:
    found, left = torch.zeros_like(start), start.clone()
    direction = left.clone()
    for _ in range(products):
        product = matrix @ direction
        step = left @ left / (direction @ product)
        found, after = found + step * direction, left - step * product
        direction, left = after + (after @ after) / (left @ left) * direction, after
    return found


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_it_gives_what_conjugate_gradients_give(shift: float, matrix: Tensor, start: Tensor) -> None:
    space = KrylovSpace(start)
    assert space.grow(matrix.mv, 7, lambda: False, lambda: None) is None
    found = space.solve(shift)
    shifted = matrix + shift * torch.eye(30, dtype=torch.float64)
    torch.testing.assert_close(space.vector(found), conjugate_gradients(shifted, start, 7))
    left = start - shifted @ space.vector(found)
    assert found.residual == pytest.approx(float(left.norm() / start.norm()))
    assert space.products == 7 and len(space.eigenvalues()) == 7


def test_functions_are_those_of_the_dense_matrix(matrix: Tensor, start: Tensor) -> None:
    space = KrylovSpace(start)
    space.grow(matrix.mv, 29, lambda: False, lambda: None)
    values, vectors = torch.linalg.eigh(matrix)
    found = space.apply(torch.exp)
    torch.testing.assert_close(space.vector(found), vectors @ (values.exp() * (vectors.T @ start)))
    assert found.residual < 1e-9 and not space.complete


def test_it_ends_where_the_space_does() -> None:
    """Three different eigenvalues: after three products everything is exact."""
    matrix = torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0, 5.0], dtype=torch.float64))
    space = KrylovSpace(torch.ones(5, dtype=torch.float64))
    space.grow(matrix.mv, 40, lambda: False, lambda: None)
    assert space.products == 3 and space.complete
    assert space.eigenvalues() == pytest.approx([1.0, 2.0, 5.0])
    assert space.apply(torch.sqrt).residual == 0.0
    torch.testing.assert_close(space.vector(space.solve(0.0)), 1.0 / matrix.diagonal())


def test_a_limit_ends_it_with_what_it_has(start: Tensor) -> None:
    def limited(vector: Tensor) -> Tensor:
        raise ResourceError("enough")

    space = KrylovSpace(start)
    stopped = space.grow(limited, 5, lambda: False, lambda: None)
    assert isinstance(stopped, ResourceError) and space.products == 0
