from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fromage_cli.errors import MismatchError
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.output_expansion import expand_outputs, model_gradient, model_loss
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
STEP = 2e-4


class Around(nn.Module):
    """6 features through a convolution, the module in question and two linear maps to 3 outputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.before, self.inner = nn.Conv1d(1, 4, 3, padding=1), inner
        self.after = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.tanh(self.inner(self.before(x[:, None, :]))).mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.output = nn.TransformerEncoderLayer(2, 2, 6, dropout=0.0, batch_first=True), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layer(x.reshape(-1, 3, 2)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrence, self.output = kind(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.recurrence(x.reshape(-1, 3, 2))[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.embedding((3 * x[:, 0]).long().abs() % 3)) @ self.embedding.weight.T


class Recomputed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(self.first, x, use_reentrant=False))


def weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: Around(nn.ReLU()),
    "layer norm": lambda: Around(nn.LayerNorm(6)),
    "rms norm": lambda: Around(nn.RMSNorm(6)),
    "group norm": lambda: Around(nn.GroupNorm(2, 4)),
    "instance norm": lambda: Around(nn.InstanceNorm1d(4, affine=True)),
    "batch norm": lambda: Around(nn.BatchNorm1d(4)),
    "max pool": lambda: Around(nn.MaxPool1d(3, 1, 1)),
    "softmax": lambda: Around(nn.Softmax(-1)),
    "weight norm": weight_norm,
    "attention": Attention,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "tied": Tied,
    "recomputed": Recomputed,
    "linear": lambda: nn.Linear(6, 3),
}


def make(make_problem: Maker, name: str, **settings: object) -> tuple[Problem, WeightSpace, list[Tensor]]:
    torch.manual_seed(0)
    model = NETWORKS[name]().double().train()
    data = {"x": torch.randn(9, 6).double(), "y": torch.randn(9, 3).double()}
    problem = make_problem(model, data, "mse", **settings)
    space = WeightSpace(problem.receiving)
    return problem, space, [0.3 * torch.randn_like(weight) for weight in space.weights]


@pytest.mark.parametrize("name", NETWORKS)
def test_both_terms_are_the_derivatives_along_the_line(make_problem: Maker, name: str) -> None:
    problem, space, direction = make(make_problem, name)
    (found,) = expand_outputs(problem, space, direction)
    x = problem.batch.data["x"]

    def output(distance: float) -> Tensor:
        moved = zip(space.tensors, direction, strict=True)
        named = {tensor.name: tensor.parameter.detach() + distance * part for tensor, part in moved}
        with torch.no_grad(), problem.evaluation(problem.batch), torch.backends.mkldnn.flags(enabled=False):
            return functional_call(problem.model, named, (x,))

    far_back, back, here, ahead, far_ahead = (output(STEP * count) for count in (-2, -1, 0, 1, 2))
    torch.testing.assert_close(found.output, here)
    first = (far_back - 8 * back + 8 * ahead - far_ahead) / (12 * STEP)
    second = (-far_back + 16 * back - 30 * here + 16 * ahead - far_ahead) / (12 * STEP**2)
    torch.testing.assert_close(found.first, first, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.second, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["cross-entropy", "mse", "bce"])
def test_the_model_is_the_dense_one(make_problem: Maker, loss: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    targets = {"cross-entropy": torch.randint(3, (7,)), "mse": torch.randn(7, 3), "bce": torch.rand(7, 3)}
    data = {"x": torch.randn(7, 4).double(), "y": targets[loss]}
    problem = make_problem(model, data, loss)
    space = WeightSpace(problem.receiving)
    at = space.flat(space.weights)

    def output(vector: Tensor) -> Tensor:
        named = dict(zip([tensor.name for tensor in space.tensors], space.split(vector), strict=True))
        return functional_call(model, named, (data["x"],))

    jacobian = torch.autograd.functional.jacobian(output, at)
    curvature = torch.func.hessian(output)(at)

    def dense(displacement: Tensor) -> Tensor:
        moved = output(at) + jacobian @ displacement + 0.5 * (curvature @ displacement) @ displacement
        losses = {
            "cross-entropy": lambda: functional.cross_entropy(moved, data["y"]),
            "mse": lambda: functional.mse_loss(moved, data["y"].double()),
            "bce": lambda: functional.binary_cross_entropy_with_logits(moved, data["y"].double()),
        }
        return losses[loss]()

    displacement = 0.5 * torch.randn_like(at)
    parts = space.split(displacement)
    expansions = expand_outputs(problem, space, parts)
    for distance in (0.0, 0.4, 1.0, -2.0):
        assert model_loss(problem, expansions, distance) == pytest.approx(float(dense(distance * displacement)))
    value, gradient = model_gradient(problem, space, parts)
    leaf = displacement.clone().requires_grad_()
    (exact,) = torch.autograd.grad(dense(leaf), leaf)
    assert value == pytest.approx(float(dense(displacement)), rel=1e-12)
    torch.testing.assert_close(space.flat(gradient), exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["layer norm", "attention", "lstm", "weight norm", "linear"])
def test_the_gradient_is_that_of_the_models_own_loss(make_problem: Maker, name: str) -> None:
    problem, space, displacement = make(make_problem, name)
    value, gradient = model_gradient(problem, space, displacement)

    def loss(distance: float) -> float:
        moved = [part + distance * other for part, other in zip(displacement, gradient, strict=True)]
        return model_loss(problem, expand_outputs(problem, space, moved))

    assert value == pytest.approx(loss(0.0))
    slope = sum(float(part.square().sum()) for part in gradient)
    step = 1e-4 / slope**0.5
    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(slope, rel=1e-6)


def test_without_a_displacement_it_is_the_loss_and_its_gradient(make_problem: Maker) -> None:
    problem, space, displacement = make(make_problem, "batch norm")
    value, gradient = model_gradient(problem, space, [torch.zeros_like(part) for part in displacement])
    assert value == pytest.approx(problem.base.loss)
    for tensor, part in zip(space.tensors, gradient, strict=True):
        torch.testing.assert_close(part, problem.base.gradients[tensor.name], atol=1e-9, rtol=1e-9)


def test_chunks_and_several_batches_make_one_model(make_problem: Maker) -> None:
    whole, space, displacement = make(make_problem, "layer norm")
    split, _, _ = make(make_problem, "layer norm", micro_batch=4)
    parts = whole.on(whole.batch.rows(0, 2), whole.batch.rows(2, 9))
    value, gradient = model_gradient(whole, space, displacement)
    for problem in (split, parts):
        found, pieces = model_gradient(problem, WeightSpace(problem.receiving), displacement)
        assert found == pytest.approx(value)
        torch.testing.assert_close(space.flat(pieces), space.flat(gradient))
        expansions = expand_outputs(problem, WeightSpace(problem.receiving), displacement)
        assert model_loss(problem, expansions) == pytest.approx(value)


def test_it_leaves_no_trace_and_counts(make_problem: Maker) -> None:
    problem, space, displacement = make(make_problem, "batch norm")
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    expand_outputs(problem, space, displacement)
    model_gradient(problem, space, displacement)
    assert all(torch.equal(before[name], value) for name, value in problem.model.state_dict().items())
    assert all(weight.grad is None for weight in space.weights)
    assert problem.evaluations.hessian_vector_products == 5.0


def test_an_output_with_one_derivative_only_is_refused(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.Hardsigmoid())
    problem = make_problem(model, {"x": torch.randn(9, 6), "y": torch.randn(9, 3)}, "mse")
    space = WeightSpace(problem.receiving)
    with pytest.raises(MismatchError, match="no second derivative"):
        expand_outputs(problem, space, [torch.ones_like(weight) for weight in space.weights])
