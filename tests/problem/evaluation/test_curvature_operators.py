from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, has_gauss_newton, hessian
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
STEP = 1e-5


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.output = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.tanh(self.norm(self.first(x.reshape(-1, 1, 5, 4)))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries, self.values = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.norm, self.output = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        query = self.queries(self.norm(x))
        return self.output(functional.scaled_dot_product_attention(query, query, self.values(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.output = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.rnn(x)[0][:, -1])


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


LOSSES = {
    "cross-entropy": (lambda: torch.randint(3, (8,)), functional.cross_entropy),
    "mse": (lambda: torch.randn(8, 3).double(), functional.mse_loss),
    "bce": (lambda: torch.rand(8, 3).double(), functional.binary_cross_entropy_with_logits),
}


def dense(space: WeightSpace, product: Callable[[Tensor], Tensor]) -> Tensor:
    size = sum(weight.numel() for weight in space.weights)
    return torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)])


def differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The derivative of a vector-valued function by central differences, [out, n]."""
    rows = torch.eye(len(at), dtype=at.dtype) * STEP
    return torch.stack([(function(at + row) - function(at - row)) / (2 * STEP) for row in rows], 1)


@pytest.mark.parametrize("network", [Perceptron, Convolution, Attention, Recurrent])
@pytest.mark.parametrize("loss", LOSSES)
def test_both_operators_equal_dense_matrices(make_problem: Maker, network: type[nn.Module], loss: str) -> None:
    torch.manual_seed(0)
    model = network().double().train()
    x = torch.randn(8, 5, 4).double()
    target, function = LOSSES[loss][0](), LOSSES[loss][1]
    problem = make_problem(model, {"x": x, "y": target}, loss)
    space = WeightSpace(problem.receiving)

    def output(vector: Tensor) -> Tensor:
        named = dict(zip([tensor.name for tensor in space.tensors], space.split(vector), strict=True))
        with torch.backends.mkldnn.flags(enabled=False):
            return functional_call(model, named, (x,)).reshape(-1)

    def gradient(vector: Tensor) -> Tensor:
        vector = vector.detach().requires_grad_()
        value = function(output(vector).view(8, 3), target)
        return torch.autograd.grad(value, vector)[0]

    at = space.flat(space.weights)
    with hessian(problem, space) as product:
        torch.testing.assert_close(dense(space, product), differences(gradient, at), rtol=1e-5, atol=1e-8)
    jacobian = differences(lambda vector: output(vector).detach(), at)
    curved = torch.autograd.functional.hessian(lambda f: function(f.view(8, 3), target), output(at).detach())
    with gauss_newton(problem, space) as product:
        torch.testing.assert_close(dense(space, product), jacobian.T @ curved @ jacobian, rtol=1e-5, atol=1e-8)
    assert problem.evaluations.hessian_vector_products == 2 * len(at)


def test_chunks_and_several_batches_give_the_curvature_of_the_whole(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = Attention().double()
    data = {"x": torch.randn(9, 5, 4).double(), "y": torch.tensor([0, 1, 2, -100, 1, 0, -100, 2, 1])}
    whole, split = make_problem(model, data), make_problem(model, data, micro_batch=4)
    parts = whole.on(whole.batch.rows(0, 3), whole.batch.rows(3, 9))
    vector = torch.randn(sum(tensor.parameter.numel() for tensor in whole.receiving)).double()
    for operator in (hessian, gauss_newton):
        found = []
        for problem in (whole, split, parts):
            with operator(problem, WeightSpace(problem.receiving)) as product:
                found.append(product(vector))
        torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(found[0], found[2])


def test_buffers_and_gradients_are_as_before(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = Convolution()
    problem = make_problem(model, {"x": torch.randn(8, 5, 4), "y": torch.randint(3, (8,))})
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    space = WeightSpace(problem.receiving)
    with hessian(problem, space) as product:
        product(torch.ones_like(space.flat(space.weights)))
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_with_one_derivative_only_is_refused(make_problem: Maker, tanh_once: nn.Module) -> None:
    class Total(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sum()

    problem = make_problem(Total(nn.Linear(2, 2), tanh_once), {"x": torch.ones(3, 2)}, "output")
    space = WeightSpace(problem.receiving)
    assert not has_gauss_newton(problem)
    with pytest.raises(MismatchError, match="no second derivative"), hessian(problem, space) as product:
        product(torch.ones(6))


def test_the_budget_is_looked_at_before_every_product(make_problem: Maker) -> None:
    problem = make_problem(nn.Linear(3, 2), {"x": torch.randn(4, 3), "y": torch.randn(4, 2)})
    space = WeightSpace(problem.receiving)
    with hessian(problem, space) as product:
        product(torch.ones(8))
        problem.budget = Budget(seconds=0.0)
        with pytest.raises(ResourceError, match="time limit"):
            product(torch.ones(8))
