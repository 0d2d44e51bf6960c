from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.double_backward import (
    double_backward,
    second_derivative_explained,
    twice_differentiable,
)
from fromage_cli.problem.conditions.evaluation import Conditions
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from tests.problem.evaluation.hessian_product import hessian_vector_product

Maker = Callable[..., Problem]


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_product_through_weight_normalisation_is_the_difference_of_gradients(
    make_problem: Maker, dim: int | None
) -> None:
    torch.manual_seed(0)
    inner = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5), dim=dim)
    model = nn.Sequential(inner, nn.Tanh(), nn.Linear(5, 3)).double()
    problem = make_problem(model, {"x": torch.randn(12, 6).double(), "y": torch.randn(12, 3).double()})
    vector = {tensor.name: torch.randn_like(tensor.parameter) for tensor in problem.receiving}
    found = hessian_vector_product(problem, vector)
    space = WeightSpace(problem.receiving)
    with hessian(problem, space) as product:
        retained = product(space.flat([vector[tensor.name] for tensor in space.tensors]))

    def gradient_at(distance: float) -> dict[str, torch.Tensor]:
        for tensor in problem.receiving:
            tensor.parameter.data.add_(vector[tensor.name], alpha=distance)
        kept: dict[str, torch.Tensor] = {}
        problem.visit_gradient(lambda tensor, gradient: kept.__setitem__(tensor.name, gradient.clone()))
        for tensor in problem.receiving:
            tensor.parameter.data.add_(vector[tensor.name], alpha=-distance)
        return kept

    ahead, behind = gradient_at(1e-5), gradient_at(-1e-5)
    for name, part in found.items():
        torch.testing.assert_close(part, (ahead[name] - behind[name]) / 2e-5, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(retained, space.flat([found[tensor.name] for tensor in space.tensors]))


def test_weight_normalisation_itself_is_what_torch_computes() -> None:
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    with double_backward(layer):
        torch.testing.assert_close(layer.weight, layer.parametrizations.weight(), rtol=0, atol=0)
        written_out = layer.weight
    torch.testing.assert_close(written_out, layer.weight)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"is_causal": True, "scale": 0.3},
        {"attn_mask": torch.tensor([[True, False, True, False], [False, False, True, True], [False] * 4])},
        {"enable_gqa": True},
        {"dropout_p": 0.5},
    ],
)
def test_attention_and_its_two_derivatives_are_torchs(settings: dict[str, Any]) -> None:
    """Three queries, four keys of another length than the values, and a query that sees no key."""
    torch.manual_seed(0)
    heads = 1 if "enable_gqa" in settings else 2
    shapes = (5, 2, 3, 6), (5, heads, 4, 6), (5, heads, 4, 7)
    begins = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    found = []
    for conditions in (twice_differentiable, double_backward):
        torch.manual_seed(1)
        with conditions(nn.Identity()):
            mixed = nn.functional.scaled_dot_product_attention(*begins, **settings)
            slopes = torch.autograd.grad(mixed.sin().sum(), begins, create_graph=True)
            second = torch.autograd.grad(torch.stack([slope.cos().sum() for slope in slopes]).sum(), begins)
        found.append([mixed, *slopes, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_missing_derivative_is_told_and_a_full_memory_passes() -> None:
    with pytest.raises(MismatchError, match="no second derivative: derivative for x"), second_derivative_explained():
        raise NotImplementedError("derivative for x is not implemented\nmore")
    with pytest.raises(MismatchError, match="no second derivative: NotImplementedError"), second_derivative_explained():
        raise NotImplementedError
    with pytest.raises(torch.OutOfMemoryError), second_derivative_explained():
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("model", "fused"),
    [
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.LSTMCell(3, 3)), True),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.GRU(3, 3)), False),
        (torch.jit.script(nn.Sequential(nn.Conv1d(2, 3, 3), nn.LSTM(3, 3))), False),
    ],
)
def test_only_recurrences_give_up_the_libraries_that_convolutions_are_fast_with(model: nn.Module, fused: bool) -> None:
    before = torch.backends.mkldnn.enabled
    with twice_differentiable(model):
        assert torch.backends.mkldnn.enabled is (fused and before)
        assert torch.backends.cudnn.enabled is fused
    assert torch.backends.mkldnn.enabled is before


def test_convolutions_and_recurrences_have_second_derivatives() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 2, 8)
    for model in (nn.Conv1d(2, 3, 3), nn.LSTM(8, 3, num_layers=2, batch_first=True)):
        with Conditions(model).comparable("auto", 0), twice_differentiable(model):
            output = model(rows)
            loss = (output[0] if isinstance(output, tuple) else output).pow(3).sum()
            gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            slope = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
            products = torch.autograd.grad(slope, list(model.parameters()), allow_unused=True)
        assert all(product is not None and product.isfinite().all() for product in products[:1])


def test_attention_that_is_computed_again_in_the_backward_pass_has_the_same_product(make_problem: Any) -> None:
    class Attention(nn.Module):
        def __init__(self, again: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.again, self.inner, self.outer = again, nn.Linear(4, 12), nn.Linear(4, 3)

        def attended(self, x: Tensor) -> Tensor:
            query, key, value = self.inner(x).chunk(3, -1)
            return scaled_dot_product_attention(query, key, value, is_causal=True)

        def forward(self, x: Tensor) -> Tensor:
            found = checkpoint(self.attended, x, use_reentrant=False) if self.again else self.attended(x)
            return self.outer(found.mean(1))

    data = {"x": torch.randn(6, 5, 4, dtype=torch.float64), "y": torch.arange(6) % 3}
    found = []
    for again in (False, True):
        problem, parts = make_problem(Attention(again).double(), data), {}
        space = WeightSpace(problem.layers)
        vector = torch.linspace(-1, 1, sum(weight.numel() for weight in space.weights), dtype=torch.float64)
        known = dict(zip([tensor.name for tensor in problem.layers], space.split(vector), strict=True))
        visit_hessian_vector_product(
            problem,
            problem.layers,
            lambda tensor, _, known=known: known[tensor.name],
            lambda tensor, part, parts=parts: parts.__setitem__(tensor.name, part.clone()),
        )
        with hessian(problem, space) as product:
            found.append([*parts.values(), product(vector)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-13)
