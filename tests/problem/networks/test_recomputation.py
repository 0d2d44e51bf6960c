"""Networks that compute activations again: the same numbers, and less that is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.evaluation import Mode
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, hessian
from fromage_cli.problem.evaluation.gradient_pullback import pull_back_gradient
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.networks.recomputation import recompute_activations

Maker = Callable[..., Problem]


def blocks() -> nn.Module:
    members = (nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.3)) for _ in range(4))
    return nn.Sequential(nn.Sequential(*members), nn.Linear(8, 3))


def perceptron() -> nn.Module:
    hidden = [module for _ in range(8) for module in (nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1))]
    return nn.Sequential(*hidden, nn.Linear(8, 3))


class Encoder(nn.Module):
    """A transformer whose layers stand in a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True) for _ in range(3))
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] * torch.arange(1.0, 4.0, dtype=x.dtype)[:, None]  # (rows, 3, 8)
        for layer in self.layers:
            x = layer(x, nn.Transformer.generate_square_subsequent_mask(3, dtype=x.dtype), is_causal=True)
        return self.head(x.mean(1))


def numbers(problem: Problem) -> list[Tensor]:
    space = WeightSpace(problem.receiving)
    vector = torch.linspace(-1, 1, sum(weight.numel() for weight in space.weights), dtype=torch.float64)
    found = [torch.tensor(problem.base.loss), *problem.base.gradients.values()]
    for operator in (hessian, gauss_newton):
        with operator(problem, space) as product:
            found += [product(vector), product(vector.flip(0))]
    parts = dict(zip([tensor.name for tensor in problem.receiving], space.split(vector), strict=True))
    streamed: dict[str, Tensor] = {}
    visit: Callable[..., None] = lambda tensor, part: streamed.__setitem__(tensor.name, part.clone())  # noqa: E731
    visit_hessian_vector_product(problem, problem.receiving, lambda tensor, _: parts[tensor.name], visit)
    return found + list(streamed.values()) + pull_back_gradient(problem, problem.receiving, {}, lambda _: parts)


@pytest.mark.parametrize("mode", ["auto", "train"])
@pytest.mark.parametrize(("network", "count"), [(blocks, 2), (perceptron, 5), (Encoder, 3)])
def test_gradients_and_products_are_the_same(
    network: Callable[[], nn.Module], count: int, mode: Mode, make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    data: dict[str, Any] = classification | {"x": classification["x"].double()}
    found = []
    for recomputes in (False, True):
        torch.manual_seed(2)
        model = network().double()
        assert not recomputes or recompute_activations(model) == count
        found.append(numbers(make_problem(model, data, mode=mode)))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-12)


def kept(model: nn.Module, x: Tensor) -> int:
    """Bytes beside weights that a forward pass keeps for the backward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Tensor] = {}

    def hold(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(hold, lambda tensor: tensor):
        model(x).sum()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def test_less_is_kept() -> None:
    x = torch.randn(64, 8)
    for network, least in ((perceptron, 3.0), (Encoder, 3.0)):
        torch.manual_seed(0)
        model = network()
        plain = kept(model, x)
        recompute_activations(model)
        assert kept(model, x) * least < plain


def test_a_forward_pass_without_a_graph_is_made_once() -> None:
    calls = []
    model = blocks()
    model[0][0].register_forward_hook(lambda *_: calls.append(1))
    recompute_activations(model)
    with torch.no_grad():
        model(torch.randn(4, 8))
    assert calls == [1]


def test_a_network_that_is_given_again_is_changed_once() -> None:
    model = blocks()
    assert recompute_activations(model) == recompute_activations(model) == 2
    calls = []
    model[0][0].register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(4, 8)).sum().backward()
    assert calls == [1, 1]


def test_a_network_without_blocks_is_refused() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 3)])

    for model in (Single(), nn.Linear(8, 3)):
        with pytest.raises(MismatchError, match="no blocks"):
            recompute_activations(model)
