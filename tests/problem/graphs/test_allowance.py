"""What an operator would allocate is known before it does."""

from typing import Any

import pytest
import torch

from fromage_cli.errors import ResourceError
from fromage_cli.problem.graphs.allowance import HARMLESS, Allowance

MODULE = "fromage_cli.problem.graphs.allowance.available_memory"
LARGE = HARMLESS // 4  # numbers of float32: as many bytes as are harmless


def check(function: Any, *arguments: Any, **named: Any) -> None:
    Allowance().check("aten.some", function, list(arguments), named)


@pytest.mark.parametrize(("free", "size"), [(HARMLESS, LARGE), (0, LARGE), (8 * LARGE, 2 * LARGE), (None, 1 << 40)])
def test_what_fits_is_allowed(monkeypatch: pytest.MonkeyPatch, free: int | None, size: int) -> None:
    """Where free memory is not known, nothing is refused."""
    monkeypatch.setattr(MODULE, lambda: free)
    check(torch.ones, [size])


@pytest.mark.parametrize("size", [2 * LARGE + 1, 1 << 40])
def test_what_does_not_fit_is_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(MODULE, lambda: 8 * LARGE)
    with pytest.raises(ResourceError, match=r"aten\.some would make") as raised:
        check(torch.ones, [size])
    assert f"{4 * size:.3g} bytes, and {8 * LARGE:.3g} are free" in raised.value.message


def test_bytes_of_the_type_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, lambda: 3 * HARMLESS)
    check(torch.ones, [2 * LARGE], dtype=torch.float32)
    with pytest.raises(ResourceError):
        check(torch.ones, [2 * LARGE], dtype=torch.float64)


def test_every_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, lambda: 3 * HARMLESS)
    check(torch.meshgrid, [torch.ones(1), torch.ones(2)], indexing="ij")
    with pytest.raises(ResourceError):
        check(torch.meshgrid, [torch.ones(2048), torch.ones(LARGE // 1024)], indexing="ij")  # two of 2 × HARMLESS


def test_a_tensor_is_not_changed_and_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, lambda: 8 * LARGE)
    weight = torch.ones(4, requires_grad=True)
    check(torch.Tensor.mul_, weight.detach(), 2.0)
    check(torch.mul, weight, 2.0)
    assert torch.equal(weight.detach(), torch.ones(4))
    with pytest.raises(ResourceError):
        check(torch.Tensor.repeat, weight, [LARGE])


def test_random_numbers_are_not_drawn() -> None:
    before = torch.get_rng_state()
    check(torch.nn.functional.dropout, torch.ones(5), 0.5)
    check(torch.rand, [5])
    assert torch.equal(before, torch.get_rng_state())


def test_what_torch_refuses_shows_when_it_is_run() -> None:
    check(torch.matmul, torch.ones(2, 3), torch.ones(2, 3))
    check(torch.ones, "text")
