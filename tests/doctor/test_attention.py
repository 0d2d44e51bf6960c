from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fromage_cli.doctor.attention import attention, written_out
from fromage_cli.doctor.result import OWN, Attention
from fromage_cli.missing import Missing
from fromage_cli.problem.conditions import double_backward

CPU = torch.device("cpu")


def of(backend: str) -> Attention:
    return next(one for one in attention(CPU) if one.backend == backend)


def test_the_formula_is_that_of_torch_and_its_derivative_that_of_differences() -> None:
    query, key, value = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in "qkv")
    mask = torch.randn(3, 3, dtype=torch.float64)
    for settings in ({}, {"is_causal": True}, {"attn_mask": mask}):
        found = written_out(query, key, value, **settings)  # type: ignore[arg-type]
        torch.testing.assert_close(found, functional.scaled_dot_product_attention(query, key, value, **settings))  # type: ignore[arg-type]
    inputs = [one.requires_grad_() for one in (query, key, value)]
    assert torch.autograd.gradgradcheck(written_out, inputs)


def test_second_derivatives_are_right_here_to_rounding() -> None:
    for backend in (OWN, "math"):
        found = of(backend)
        assert found.verdict == "right" and isinstance(found.gap, float) and found.gap < 1e-14


def test_kernels_without_a_second_derivative_are_told_from_those_that_do_not_run() -> None:
    assert of("flash").verdict == "refused" and of("cudnn").verdict == "unavailable"
    gap = of("flash").gap
    assert isinstance(gap, Missing) and "not implemented" in gap.words


def test_a_wrong_formula_of_this_program_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = functional.scaled_dot_product_attention

    def detached(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        return written_out(query, key.detach() + 0 * key, value, **settings)

    monkeypatch.setitem(double_backward.FORMULAS, kernel, detached)  # type: ignore[arg-type]
    assert of(OWN).verdict == "wrong" and of("math").verdict == "right"


@pytest.mark.parametrize("factor", [1.0 + 1e-6, float("nan")])
def test_a_wrong_kernel_of_torch_is_found(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = functional.scaled_dot_product_attention
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda *inputs, **more: factor * right(*inputs, **more)
    )
    assert of("math").verdict == "wrong"


def test_a_mistake_in_masked_attention_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = functional.scaled_dot_product_attention

    def unmasked(*inputs: Tensor, **more: Any) -> Tensor:
        return right(*inputs, **(more | {"attn_mask": None}))

    monkeypatch.setattr(functional, "scaled_dot_product_attention", unmasked)
    assert of("math").verdict == "wrong"
