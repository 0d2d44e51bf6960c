"""Running statistics as part of a training step, against torch's own updates of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.probes.hypergradients.running_statistics import RunningStatistics
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import CrossEntropy

Make = Callable[[], nn.Module]


class Network(nn.Module):
    """Layers of every kind with running statistics; the first is called twice, once by keyword."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv1d(2, 4, 2), nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(4, momentum=momentum)
        self.instance = nn.InstanceNorm1d(4, momentum=0.3, track_running_stats=True, affine=True)
        self.flat = nn.BatchNorm1d(4, momentum=0.2, affine=False)
        self.without = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.convolution(x)).tanh()
        hidden = self.instance(self.norm(input=hidden.square() + hidden))
        found: Tensor = self.head(self.without(self.flat(hidden.mean(2))))
        return found


@pytest.fixture
def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(12, 2, 6, dtype=torch.float64, generator=generator) + 0.5
    return {"x": x, "y": torch.randint(3, (12,), generator=generator)}


def network(momentum: float | None = 0.1) -> Network:
    torch.manual_seed(6)
    model = Network(momentum).double()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(7, 2, 6, dtype=torch.float64))
    return model


def problem_of(model: nn.Module, rows: dict[str, Tensor], mode: str = "train") -> Problem:
    return Problem(model, CrossEntropy(), as_batch(rows, "rows"), mode=mode)  # type: ignore[arg-type]


def buffers_of(model: Network) -> dict[str, Tensor]:
    """Copies, under the names that they have here: the layers are numbered as the model lists them."""
    layers = (model.norm, model.instance, model.flat)
    return {
        f"{number}.{name}": value.clone()
        for number, layer in enumerate(layers)
        for name, value in layer.named_buffers()
    }


@pytest.mark.parametrize("momentum", [0.1, None, 1.0])
def test_a_step_moves_them_as_torch_does(momentum: float | None, rows: dict[str, Tensor]) -> None:
    model, other = network(momentum), network(momentum)
    problem, before = problem_of(model, rows), buffers_of(model)
    statistics = RunningStatistics(problem)
    assert statistics.held().keys() == before.keys()
    with statistics.updated() as found:
        problem.visit_gradient(lambda *_: None)
    for key, value in buffers_of(model).items():
        assert torch.equal(value, before[key]), "an evaluation leaves them as they were"
    other.train()(rows["x"])
    for key, value in buffers_of(other).items():
        assert torch.equal(found[key], value), key
    statistics.load(found)
    assert all(torch.equal(value, found[key]) for key, value in buffers_of(model).items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_adjoints_are_derivatives_of_torchs_updates(momentum: float | None, rows: dict[str, Tensor]) -> None:
    model = network(momentum)
    problem, generator = problem_of(model, rows), torch.Generator().manual_seed(7)
    statistics = RunningStatistics(problem)
    adjoint = {key: torch.randn(4, dtype=torch.float64, generator=generator) for key in statistics.moving}
    with problem.evaluation(problem.batch), statistics.pulled_back(adjoint) as passes:
        problem.loss(model, problem.batch)
        slope = torch.stack(passes.terms()).sum()
        by_weights = torch.autograd.grad(slope, list(model.parameters()), materialize_grads=True, allow_unused=True)

    def value(moved: Tensor, way: Tensor, width: float) -> float:
        """<adjoint, statistics after a step> with one tensor moved."""
        kept = {name: each.clone() for name, each in model.state_dict().items()}
        with torch.no_grad():
            moved.add_(way, alpha=width)
            model.train()(rows["x"])
            after = buffers_of(model)
            model.load_state_dict(kept)
        return sum(float((adjoint[key] * after[key]).sum()) for key in adjoint)

    for (name, parameter), found in zip(model.named_parameters(), by_weights, strict=True):
        way = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        expected = (value(parameter, way, 1e-5) - value(parameter, way, -1e-5)) / 2e-5
        assert float((found * way).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9), name
    before = passes.before()
    assert before.keys() == adjoint.keys()
    for key, buffer in statistics.moving.items():
        way = torch.rand(4, dtype=torch.float64, generator=generator)
        expected = (value(buffer, way, 1e-3) - value(buffer, way, -1e-3)) / 2e-3
        assert float((before[key] * way).sum()) == pytest.approx(expected, rel=1e-8, abs=1e-9), key


def test_in_evaluation_they_can_be_differentiated_by(rows: dict[str, Tensor]) -> None:
    model = network()
    problem, statistics = problem_of(model, rows, "eval"), RunningStatistics(problem_of(model, rows))
    before = statistics.moving
    with problem.evaluation(problem.batch), statistics.requiring_gradients() as leaves:
        loss = problem.loss(model, problem.batch).total
        slopes = torch.autograd.grad(loss, list(leaves.values()))
    assert all(statistics.moving[key] is value for key, value in before.items())
    assert float(loss) == pytest.approx(12 * problem.value(), rel=1e-12)
    for (key, buffer), slope in zip(statistics.moving.items(), slopes, strict=True):
        way, ends = torch.rand(4, dtype=torch.float64), []
        for width in (1e-5, -1e-5):
            buffer.add_(way, alpha=width)
            ends.append(12 * problem.value())
            buffer.sub_(way, alpha=width)
        assert float((slope * way).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9), key


def test_a_graph_made_apart_outlives_what_is_written_later(rows: dict[str, Tensor]) -> None:
    model = network()
    problem, statistics = problem_of(model, rows), RunningStatistics(problem_of(model, rows))
    before = statistics.moving
    slopes = []
    for later in (0.0, 1.0):
        with statistics.apart():
            loss = model.train()(rows["x"]).square().sum()
        assert all(statistics.moving[key] is value for key, value in before.items())
        statistics.load({key: value + later for key, value in statistics.held().items()})
        slopes.append(torch.autograd.grad(loss, [tensor.parameter for tensor in problem.trainable]))
    assert all(torch.equal(one, other) for one, other in zip(*slopes, strict=True))


def test_after_an_error_the_buffers_are_back(rows: dict[str, Tensor]) -> None:
    model = network()
    statistics = RunningStatistics(problem_of(model, rows))
    before = statistics.moving
    with pytest.raises(ZeroDivisionError), statistics.requiring_gradients():
        _ = 1 / 0
    assert all(statistics.moving[key] is value for key, value in before.items())


def test_in_evaluation_mode_nothing_moves(rows: dict[str, Tensor]) -> None:
    assert RunningStatistics(problem_of(network(), rows, "eval")).held() == {}


def test_rows_alone_without_memory(rows: dict[str, Tensor]) -> None:
    model = network()
    problem = problem_of(model, rows)
    found = RunningStatistics(problem).of_rows(problem)
    other = network()
    for layer in (other.norm, other.instance, other.flat):
        layer.momentum = 1.0
    other.train()(rows["x"])
    expected = buffers_of(other)
    assert found.keys() == {key for key in expected if "running" in key}
    assert all(torch.allclose(value, expected[key], rtol=1e-12) for key, value in found.items())
    assert (model.norm.momentum, model.instance.momentum, model.flat.momentum) == (0.1, 0.3, 0.2)
