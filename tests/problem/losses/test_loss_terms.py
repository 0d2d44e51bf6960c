from typing import Any

import pytest
import torch

from fromage_cli.errors import MismatchError
from fromage_cli.problem.losses.loss_terms import in_full_precision, scalar_loss

WEIGHT = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize("loss", [WEIGHT.sum(), WEIGHT.sum().reshape(1)])
def test_one_number_with_a_graph_is_a_loss(loss: torch.Tensor) -> None:
    assert scalar_loss(loss, "f").shape == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "is a float; expected a scalar tensor"),
        (None, "is a NoneType"),
        (WEIGHT * 2, r"has shape \[2\]"),
        (WEIGHT.sum().reshape(1, 1), r"has shape \[1, 1\]"),
        (torch.tensor(3), "has type torch.int64"),
        (WEIGHT.sum() * 1j, "has type torch.complex64"),
        (WEIGHT.sum().detach(), "has no gradient"),
    ],
)
def test_anything_else_is_refused(value: Any, words: str) -> None:
    with pytest.raises(MismatchError, match=f"The loss from f {words}"):
        scalar_loss(value, "f")


def test_without_gradients_a_loss_needs_no_graph() -> None:
    with torch.no_grad():
        assert scalar_loss(torch.tensor(1.0), "f") == 1.0


def test_narrow_numbers_are_widened_and_wide_ones_kept() -> None:
    assert in_full_precision(torch.ones(1, dtype=torch.bfloat16)).dtype is torch.float32
    assert in_full_precision(torch.ones(1, dtype=torch.float64)).dtype is torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mean_in_half_precision_is_multiplied_by_its_count_in_full(dtype: torch.dtype) -> None:
    mean = torch.tensor(10.3, dtype=dtype, requires_grad=True)
    total = scalar_loss(mean, "here") * 9999.0  # beyond the range of float16
    assert float(total.detach()) / 9999.0 == pytest.approx(float(mean.detach()), rel=1e-6)
    total.backward()
    assert mean.grad is not None and mean.grad.dtype is dtype
