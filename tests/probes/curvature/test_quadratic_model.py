import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.errors import ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.curvature import quadratic_model
from fromage_cli.probes.curvature.quadratic_model import measure_line, outcome_of, simulate_training
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.probes.optimizer_step.next_step import next_step
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


@pytest.fixture
def small(make_problem: Maker) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return make_problem(model, {"x": torch.randn(7, 4).double(), "y": torch.randint(3, (7,))})


class Dense:
    """The same quadratic model from the whole Jacobian and every output's Hessian."""

    def __init__(self, problem: Problem) -> None:
        self.space = WeightSpace(problem.receiving)
        names = [tensor.name for tensor in self.space.tensors]
        x, self.target = problem.batch.data["x"], problem.batch.data["y"]

        def output(vector: Tensor) -> Tensor:
            return functional_call(problem.model, dict(zip(names, self.space.split(vector), strict=True)), (x,))

        self.at = self.space.flat(self.space.weights)
        self.output = output(self.at).detach()
        self.jacobian = torch.autograd.functional.jacobian(output, self.at)
        self.curvature = torch.func.hessian(output)(self.at)

    def loss(self, vector: Tensor) -> Tensor:
        moved = vector - self.at
        outputs = self.output + self.jacobian @ moved + 0.5 * (self.curvature @ moved) @ moved
        return nn.functional.cross_entropy(outputs, self.target)

    def train(self, make: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int) -> list[float]:
        vector = self.at.clone().requires_grad_()
        optimizer = make([vector])
        losses = []
        for _ in range(steps + 1):
            optimizer.zero_grad()
            loss = self.loss(vector)
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
        return losses


RULES: dict[str, tuple[Optimizer, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (Optimizer("sgd", 2.0), lambda w: torch.optim.SGD(w, 2.0)),
    "momentum": (
        Optimizer("sgd", 0.5, 0.8, 0.1, weight_decay=0.02, decay_given=True),
        lambda w: torch.optim.SGD(w, 0.5, 0.8, 0.1, weight_decay=0.02),
    ),
    "nesterov": (Optimizer("sgd", 0.5, 0.8, nesterov=True), lambda w: torch.optim.SGD(w, 0.5, 0.8, nesterov=True)),
    "adam": (Optimizer("adam", 0.1), lambda w: torch.optim.Adam(w, 0.1)),
    "adamw": (
        Optimizer("adamw", 0.1, betas=(0.8, 0.9), weight_decay=0.3, decay_given=True),
        lambda w: torch.optim.AdamW(w, 0.1, (0.8, 0.9), weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_training_in_it_is_training_in_the_dense_model(small: Problem, rule: str) -> None:
    optimizer, make = RULES[rule]
    before = [weight.detach().clone() for weight in small.model.parameters()]
    found = simulate_training(MatchedState(small, optimizer), WeightSpace(small.receiving), steps=9)
    assert found.losses == pytest.approx(Dense(small).train(make, 9)[: len(found.losses)], rel=1e-6)
    assert len(found.losses) == 10 or found.outcome in ("spikes", "diverges")
    assert all(torch.equal(a, b) for a, b in zip(before, small.model.parameters(), strict=True))
    assert all(weight.grad is None for weight in small.model.parameters())


def test_the_line_is_that_of_the_dense_model(small: Problem) -> None:
    optimizer = Optimizer("sgd", 1.0)
    step, _ = next_step(MatchedState(small, optimizer))
    space = WeightSpace(small.receiving)
    line = measure_line(small, space, step, 1.0)
    dense, direction = Dense(small), space.flat([step[tensor.name] for tensor in space.tensors])
    exact = [float(dense.loss(dense.at - rate * direction)) for rate in line.rates]
    assert line.model_losses == pytest.approx(exact, rel=1e-6)
    assert list(line.rates) == sorted(line.rates)


class Cubic(nn.Module):
    """f = w^3 x, whose quadratic model is known at every distance."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight**3 * x


@pytest.mark.parametrize("start", [1e-5, 0.3, 100.0])
def test_the_radius_is_where_the_model_misses_a_tenth_of_the_change(make_problem: Maker, start: float) -> None:
    problem = make_problem(Cubic(), {"x": torch.ones(2, 1).double(), "y": torch.zeros(2, 1).double()})
    line = measure_line(problem, WeightSpace(problem.receiving), {"weight": torch.ones(1).double()}, start)

    def misses(rate: float) -> bool:
        true, model = (1 - rate) ** 6, (1 - 3 * rate + 3 * rate**2) ** 2
        return abs(model - true) > 0.1 * abs(true - 1)

    first = next(rate for rate in (index * 1e-4 for index in range(1, 20000)) if misses(rate))
    if start == 1e-5:
        assert (line.radius, line.relation) == (None, "above-grid")
    else:
        assert line.relation == "crossing"
        assert line.radius == pytest.approx(first, rel=0.03)


class NearlyQuadratic(nn.Module):
    """A loss that is back at its start at a rate of 1, and a model of it that is off by 1 % of its fall there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (2 * self.weight - 1 + 0.00125 * (self.weight - 1) ** 3) * x


def test_where_the_loss_is_back_at_its_start_the_model_may_be_off(make_problem: Maker) -> None:
    data = {"x": torch.ones(2, 1).double(), "y": torch.zeros(2, 1).double()}
    problem = make_problem(NearlyQuadratic(), data)
    line = measure_line(problem, WeightSpace(problem.receiving), {"weight": torch.ones(1).double()}, 1.0)
    assert line.radius is None or line.radius > 1.5


def test_a_model_that_is_exact_holds_everywhere(make_problem: Maker) -> None:
    torch.manual_seed(0)
    problem = make_problem(nn.Linear(3, 2).double(), {"x": torch.randn(5, 3).double(), "y": torch.randn(5, 2).double()})
    step, _ = next_step(MatchedState(problem, Optimizer("sgd", 0.1)))
    line = measure_line(problem, WeightSpace(problem.receiving), step, 1.0)
    assert (line.radius, line.relation, len(line.rates)) == (None, "above-grid", 13)
    assert line.losses == pytest.approx(line.model_losses)


def test_a_model_that_never_fits_is_told(monkeypatch: pytest.MonkeyPatch, make_problem: Maker) -> None:
    problem = make_problem(Cubic(), {"x": torch.ones(2, 1).double(), "y": torch.zeros(2, 1).double()})
    monkeypatch.setattr(quadratic_model, "model_loss", lambda *_: 7.0)
    line = measure_line(problem, WeightSpace(problem.receiving), {"weight": torch.ones(1).double()}, 1.0)
    assert (line.radius, line.relation) == (None, "below-grid")
    assert problem.trainable[0].parameter.item() == 1.0


class TwoLayers(nn.Module):
    """A wide linear network of two layers on one sample: f = v . u x / sqrt(m), quadratic in its weights."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(width, 1, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(1, width, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.first.T @ self.second.T / self.first.shape[0] ** 0.5


@pytest.mark.parametrize(
    ("scaled", "outcome"), [(1.0, "falls"), (1.5, "falls"), (2.5, "spikes"), (3.5, "spikes"), (4.5, "diverges")]
)
@pytest.mark.parametrize("target", [0.0, 0.3])
def test_the_catapult_obeys_its_closed_recursion(
    make_problem: Maker, scaled: float, outcome: str, target: float
) -> None:
    """u' = (1 - v + u + w)^2 u and v' = v - u (4 - v) - 4 w, with w' = (1 - v + u + w) w.

    For the loss g^2 / 2 with g = f - y at rate eta: u = eta^2 g^2 / m, v = eta lambda, w = eta^2 g y / m.
    """
    torch.manual_seed(3)
    model, width = TwoLayers(), 512
    problem = make_problem(model, {"x": torch.ones(1, 1).double(), "y": torch.full((1, 1), target).double()}, "mse")
    kernel = float(sum(weight.detach().square().sum() for weight in model.parameters())) / width
    rate = scaled / kernel
    optimizer = Optimizer("sgd", rate / 2.0)  # the squared error has no factor 1/2
    found = simulate_training(MatchedState(problem, optimizer), WeightSpace(problem.receiving), steps=60)
    residual = float(model(torch.ones(1, 1).double()).detach()) - target
    u, v, w = rate**2 * residual**2 / width, scaled, rate**2 * residual * target / width
    expected = []
    for _ in found.losses:
        expected.append(u * width / rate**2)
        factor = 1.0 - v + u + w
        u, v, w = factor**2 * u, v - u * (4.0 - v) - 4.0 * w, factor * w
    assert found.losses == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert found.outcome == outcome


def test_the_outcome_is_read_off_the_losses() -> None:
    assert outcome_of([1.0, 1.01, 0.9]) == "falls"
    assert outcome_of([1.0, 5.0, 0.9]) == "spikes"
    assert outcome_of([1.0, 5.0, 1.0]) == "rises"
    assert outcome_of([1.0, 5.0, math.inf]) == outcome_of([1.0, math.nan]) == outcome_of([1.0, 1e9]) == "diverges"
    assert outcome_of([0.0, 0.0]) == outcome_of([1e-15, 1.3e-15], 1e-14) == "falls"


def test_nothing_is_measured_from_a_start_of_zero_or_of_rounding() -> None:
    assert outcome_of([0.0, 1e-6, 4e-6]) == outcome_of([1e-15, 1e-6, 4e-6], 1e-14) == "rises"
    assert outcome_of([0.0, 1e-6, 1e6]) == outcome_of([0.0, math.nan]) == outcome_of([0.0, math.inf]) == "diverges"


def test_weight_decay_that_leaves_an_exact_fit_does_not_diverge(make_problem: Maker) -> None:
    """w = 1 fits y = x; with decay d, v = 1 - w follows v <- (1 - eta (2 m + d)) v + eta d, m the mean of x^2."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    x = torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    problem = make_problem(model, {"x": x, "y": x.clone()})
    found = simulate_training(
        MatchedState(problem, Optimizer("sgd", 0.1, weight_decay=0.02)), WeightSpace(problem.receiving), steps=8
    )
    expected, v = [], 0.0
    for _ in range(9):
        expected.append(2.0 * v**2)
        v = (1.0 - 0.1 * (2.0 * 2.0 + 0.02)) * v + 0.1 * 0.02
    assert found.losses == pytest.approx(expected, rel=1e-12)
    assert found.losses[0] == 0.0 and found.outcome == "rises"


def test_a_limit_keeps_the_steps_so_far(small: Problem) -> None:
    seen = []

    def advance() -> None:
        seen.append(1)
        if len(seen) == 3:
            small.budget = Budget(seconds=0.0)

    found = simulate_training(
        MatchedState(small, Optimizer("sgd", 0.1)), WeightSpace(small.receiving), steps=9, advance=advance
    )
    assert isinstance(found, Interrupted) and isinstance(found.error, ResourceError)
    assert len(found.found.losses) == 4


def test_tensors_left_out_stand_still(small: Problem) -> None:
    space = WeightSpace([tensor for tensor in small.receiving if tensor.name.startswith("2.")])
    decayed = Optimizer("sgd", 0.5, weight_decay=0.5, decay_given=True)
    found = simulate_training(MatchedState(small, decayed), space, steps=3)
    frozen = [parameter.requires_grad_(False) for parameter in small.model[0].parameters()]
    optimizer = torch.optim.SGD(small.model[2].parameters(), 0.5, weight_decay=0.5)
    losses = []
    for _ in range(4):  # the output is linear in the last layer, so that its quadratic model is exact
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(small.model(small.batch.data["x"]), small.batch.data["y"])
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    assert frozen and found.losses == pytest.approx(losses, rel=1e-9)


def test_it_starts_from_the_state_in_the_checkpoint(small: Problem) -> None:
    from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup

    parameters = list(small.model.parameters())
    optimizer = torch.optim.SGD(parameters, 0.3, 0.9)
    nn.functional.cross_entropy(small.model(small.batch.data["x"]), small.batch.data["y"]).backward()
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = 3.0 * parameter.grad
    saved = optimizer.state_dict()
    small.drop_gradients()
    group = {name: value for name, value in saved["param_groups"][0].items() if name != "params"}
    state = OptimizerState((ParameterGroup(group, tuple(saved["param_groups"][0]["params"])),), saved["state"])
    space = WeightSpace(small.receiving)
    warm = simulate_training(match_state(small, Optimizer("sgd", 0.3, 0.9), state), space, steps=1).losses
    dense = Dense(small)
    gradient = space.flat([small.base.gradients[tensor.name] for tensor in space.tensors])
    assert warm[1] == pytest.approx(float(dense.loss(dense.at - 0.3 * (0.9 * 3.0 + 1.0) * gradient)), rel=1e-6)
