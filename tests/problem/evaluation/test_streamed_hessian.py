from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fromage_cli.errors import MismatchError
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from tests.problem.evaluation.hessian_product import hessian_vector_product


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries, self.values = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.norm, self.output = nn.LayerNorm(4), nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.queries(self.norm(x))
        attended = nn.functional.scaled_dot_product_attention(query, query, self.values(x))
        return self.output(attended.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.output = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.rnn(x)[0][:, -1])


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.output = nn.Linear(4, 4), nn.BatchNorm1d(5), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.norm(self.first(x))).mean(1))


@pytest.mark.parametrize(
    ("network", "micro_batch"),
    [(Attention, None), (Attention, 4), (Recurrent, None), (Recurrent, 4), (Normalised, None)],
)
def test_products_equal_those_of_the_dense_hessian(
    make_problem: Callable[..., Problem], network: type[nn.Module], micro_batch: int | None
) -> None:
    torch.manual_seed(0)
    model = network().double()
    x, y = torch.randn(6, 5, 4).double(), torch.randn(6, 2).double()
    problem = make_problem(model, {"x": x, "y": y}, micro_batch=micro_batch)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    vector = {name: torch.randn_like(value) for name, value in parameters.items()}

    def gradient(t: float) -> dict[str, torch.Tensor]:
        moved = {n: (p + t * vector[n]).requires_grad_() for n, p in parameters.items()}
        with torch.backends.mkldnn.flags(enabled=False):
            loss = (functional_call(model, moved, (x,)) - y).square().mean()
        return dict(zip(moved, torch.autograd.grad(loss, list(moved.values())), strict=True))

    step = 1e-5
    above, below = gradient(step), gradient(-step)
    product = hessian_vector_product(problem, vector)
    for name, value in product.items():
        torch.testing.assert_close(value, (above[name] - below[name]) / (2 * step), rtol=1e-5, atol=1e-8)
    assert problem.evaluations.hessian_vector_products == 1


def test_the_product_over_some_tensors_holds_the_others_fixed(make_problem: Callable[..., Problem]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    problem = make_problem(model, {"x": torch.randn(5, 3).double(), "y": torch.randn(5, 2).double()})
    full = {t.name: torch.zeros_like(t.parameter) for t in problem.trainable}
    full["0.weight"] = torch.randn(3, 3).double()
    alone = hessian_vector_product(problem, {"0.weight": full["0.weight"]})
    torch.testing.assert_close(alone["0.weight"], hessian_vector_product(problem, full)["0.weight"])


def test_a_loss_that_is_linear_has_no_curvature(make_problem: Callable[..., Problem]) -> None:
    class Total(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight).sum()

    problem = make_problem(Total(), {"x": torch.ones(3, 2)}, "output")
    assert float(hessian_vector_product(problem, {"weight": torch.ones(2, 2)})["weight"].abs().max()) == 0


def test_a_loss_with_one_derivative_only_is_refused(make_problem: Callable[..., Problem], tanh_once: nn.Module) -> None:
    problem = make_problem(nn.Sequential(nn.Linear(2, 2), tanh_once), {"x": torch.ones(3, 2), "y": torch.zeros(3, 2)})
    with pytest.raises(MismatchError, match="no second derivative"):
        hessian_vector_product(problem, {"0.weight": torch.ones(2, 2)})


def test_sparse_gradients_have_the_products_of_dense_ones(make_problem: Callable[..., Problem]) -> None:
    def found(sparse: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        layers = nn.Embedding(11, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3)
        data = {"x": torch.arange(15).reshape(5, 3) % 11, "y": torch.arange(5) % 3}
        problem = make_problem(nn.Sequential(*layers).double(), data)
        return hessian_vector_product(problem, problem.base.gradients)

    sparse, dense = found(True), found(False)
    assert sparse.keys() == dense.keys()
    for name, product in dense.items():
        torch.testing.assert_close(sparse[name], product, rtol=1e-12, atol=1e-14)


def test_factors_and_the_gradient_itself_may_stand_for_the_vector(make_problem: Callable[..., Problem]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    problem = make_problem(model, {"x": torch.randn(5, 3).double(), "y": torch.randn(5, 2).double()})
    factors = {tensor.name: float(index) - 1.5 for index, tensor in enumerate(problem.trainable)}
    vector = {name: factors[name] * gradient for name, gradient in problem.base.gradients.items()}
    expected, found = hessian_vector_product(problem, vector), {}
    visit_hessian_vector_product(
        problem,
        problem.trainable,
        lambda tensor, gradient: gradient,
        lambda tensor, product: found.__setitem__(tensor.name, product),
        lambda tensor: factors[tensor.name],
    )
    assert found.keys() == expected.keys()
    for name, product in expected.items():
        torch.testing.assert_close(found[name], product, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("module", [nn.Linear(40, 40), nn.Embedding(40, 40)])
def test_a_product_leaves_no_hooks_and_no_gradients(make_problem: Callable[..., Problem], module: nn.Module) -> None:
    x = torch.randn(4, 40) if isinstance(module, nn.Linear) else torch.randint(40, (4,))
    problem = make_problem(module, {"x": x, "y": torch.randn(4, 40)})
    before = {tensor.name: tensor.parameter._backward_hooks for tensor in problem.trainable}
    hessian_vector_product(problem, {t.name: torch.ones_like(t.parameter) for t in problem.trainable})
    assert not any(before[t.name] or t.parameter._backward_hooks for t in problem.trainable)
    assert all(tensor.parameter.grad is None for tensor in problem.trainable)
