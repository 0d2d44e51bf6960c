from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.diagnostics.sharpness.conclusion import verdict
from fromage_cli.diagnostics.sharpness.findings import judge
from fromage_cli.diagnostics.sharpness.measure import measure
from fromage_cli.missing import Basis, Missing, Why, found_of
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.curvature.preconditioned_hessian import groups_differ, precondition
from fromage_cli.probes.curvature.threshold import StableRate, stable_rate
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.probes.optimizer_step.next_step import hardly_begun
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, hessian
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
RATES = (0.02, 0.5)


def groups(model: nn.Sequential) -> list[dict[str, Any]]:
    first, second = model[0].parameters(), model[2].parameters()
    return [{"params": [*first], "lr": RATES[0], "weight_decay": 0.3}, {"params": [*second], "lr": RATES[1]}]


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()


@pytest.fixture
def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 4, generator=generator).double()
    return {"x": x, "y": x[:, :1].sin() + 0.1 * torch.randn(40, 1, generator=generator).double()}


def trained(
    model: nn.Module, data: dict[str, Tensor], optimizer: torch.optim.Optimizer, path: Path, steps: int = 4
) -> OptimizerState:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(data["x"]), data["y"]).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    state = open_checkpoint(path).optimizer
    assert state is not None
    return state


def dense(problem: Problem, operator: Any) -> Tensor:
    space = WeightSpace(problem.receiving)
    size = sum(weight.numel() for weight in space.weights)
    with operator(problem, space) as product:
        return torch.stack([product(row) for row in torch.eye(size, dtype=problem.dtype)])


def spread(problem: Problem, values: dict[str, float]) -> Tensor:
    return torch.cat([torch.full((t.parameter.numel(),), values[t.name]).double() for t in problem.receiving])


@pytest.mark.parametrize(
    "make",
    [partial(torch.optim.SGD, momentum=0.5), torch.optim.Adam, torch.optim.AdamW],
    ids=["sgd", "adam", "adamw"],
)
def test_rates_decays_and_second_moments_condition_the_hessian(
    make: Any, make_problem: Maker, network: nn.Sequential, data: dict[str, Tensor], tmp_path: Path
) -> None:
    state = trained(network, data, optimizer := make(groups(network)), tmp_path / "c.pt")
    problem, rule = make_problem(network, data), find_settings(Given(), state.settings, Given())
    names = [tensor.name for tensor in problem.receiving]
    share = spread(problem, {name: RATES[0] / RATES[1] if name.startswith("0.") else 1.0 for name in names})
    decay = spread(problem, {name: 0.3 if name.startswith("0.") else 0.0 for name in names})
    matrix = dense(problem, hessian) + (0.0 if make is torch.optim.AdamW else 1.0) * torch.diag(decay)
    if rule.adaptive:
        slots = [optimizer.state[parameter]["exp_avg_sq"] for parameter in network.parameters()]
        roots = [((slot / (1 - 0.999**4)).sqrt() + 1e-8) * (1 - 0.9**4) for slot in slots]
        share = share / torch.cat([root.reshape(-1) for root in roots])
    space = WeightSpace(problem.receiving)
    preconditioning = precondition(match_state(problem, rule, state), space)
    assert preconditioning is not None and groups_differ(match_state(problem, rule, state), space)
    assert match_state(problem, rule, state).lowest_rate == pytest.approx(min(RATES))
    torch.testing.assert_close(dense(problem, preconditioning.operator), share.sqrt()[:, None] * matrix * share.sqrt())


def test_groups_of_different_rates_diverge_from_the_stable_rate_on(make_problem: Maker, tmp_path: Path) -> None:
    """A quadratic whose sharp half has the low rate: the unscaled eigenvalue would be fifty times too large."""

    class Bowl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.sharp = nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": (0.5 * self.flat.square().sum() + 50.0 * self.sharp.square().sum()) * x.mean()}

    def optimizer(model: Bowl, rate: float) -> torch.optim.SGD:
        parts = [{"params": [model.flat], "lr": rate}, {"params": [model.sharp], "lr": rate / 250.0}]
        return torch.optim.SGD(parts, momentum=0.5)

    def end(rate: float) -> float:
        model = Bowl()
        steps = optimizer(model, rate)
        for _ in range(400):
            steps.zero_grad()
            model(torch.ones(1))["loss"].backward()
            steps.step()
        return float(model(torch.ones(1))["loss"])

    model = Bowl()
    one = optimizer(model, 0.1)
    model(torch.ones(2))["loss"].backward()
    one.step()
    torch.save({"model": model.state_dict(), "optimizer": one.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    problem = make_problem(model, {"x": torch.ones(2, dtype=torch.float64)}, "auto")
    found = stable_rate(
        match_state(problem, find_settings(Given(), state.settings, Given()), state), problem.receiving, {}
    )
    assert found.learning_rate == pytest.approx(3.0, rel=0.02) and "with the rates of the groups" in found.words
    assert end(0.97 * found.learning_rate) < 1.0 < end(1.03 * found.learning_rate)


def test_a_state_without_moments_for_every_tensor_conditions_nothing(
    make_problem: Maker, network: nn.Sequential, data: dict[str, Tensor], tmp_path: Path
) -> None:
    network[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    state = trained(network, data, optimizer, tmp_path / "c.pt")
    network[0].weight.requires_grad_(True)
    problem, rule = make_problem(network, data), find_settings(Given(), state.settings, Given())
    assert precondition(match_state(problem, rule, state), WeightSpace(problem.receiving)) is None
    found = stable_rate(match_state(problem, rule, state), problem.receiving, {})
    words = "the state lacks Adam's second moments for some tensors"
    assert found == StableRate(Missing(Why.NO_STATE, words), Basis(words))


def test_equal_groups_leave_the_hessian_alone(
    make_problem: Maker, network: nn.Sequential, data: dict[str, Tensor]
) -> None:
    problem, rule = make_problem(network, data), Optimizer("sgd", 0.1)
    space = WeightSpace(problem.receiving)
    preconditioning = precondition(MatchedState(problem, rule), space)
    assert preconditioning is not None and preconditioning.scale is None and preconditioning.decay is None
    assert not groups_differ(MatchedState(problem, rule), space)
    assert MatchedState(problem, rule).lowest_rate is None


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.AdamW, amsgrad=True)], ids=["adam", "amsgrad"])
def test_where_second_moments_are_zero_the_next_steps_condition_the_hessian(
    make: Any, make_problem: Maker, network: nn.Sequential, data: dict[str, Tensor], tmp_path: Path
) -> None:
    """Behind a head of zeros no gradient came at the first step: P there is that of the second."""
    nn.init.zeros_(network[2].weight)
    state = trained(network, data, optimizer := make(network.parameters(), lr=0.01), tmp_path / "c.pt", steps=1)
    problem, rule = make_problem(network, data), find_settings(Given(), state.settings, Given())
    space, expected = WeightSpace(problem.receiving), []
    gradients = torch.autograd.grad(
        nn.functional.mse_loss(network(data["x"]), data["y"]), parameters := [*network.parameters()]
    )
    for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        square, bias, steps = optimizer.state[parameter]["exp_avg_sq"], 0.001, 1
        if place < 2:
            assert not square.any()
            square, bias, steps = 0.001 * gradient.square(), 1.0 - 0.999**2, 2
        expected.append((((square / bias).sqrt() + 1e-8) * (1.0 - 0.9**steps)).reshape(-1))
    found = precondition(match_state(problem, rule, state), space)
    assert found is not None and found.scale is not None
    torch.testing.assert_close(found.scale.detach(), torch.cat(expected).detach().rsqrt())


class LowRank(nn.Module):
    """A frozen layer with an update of rank 2, whose second factor begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(6, 24).requires_grad_(False), nn.Linear(24, 2).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.zeros(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.base(x) + x @ self.down.T @ self.up.T))


@pytest.mark.parametrize("kind", ["head", "low rank"])
def test_a_step_after_a_start_at_zero_training_is_not_called_unstable(
    kind: str, make_problem: Maker, tmp_path: Path
) -> None:
    """Where Adam has hardly begun; 100 real steps never raise the loss."""
    torch.manual_seed(11)
    data = {"x": torch.randn(48, 6), "y": torch.randn(48, 2)}
    model = LowRank()
    if kind == "head":
        model = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 2))
        nn.init.zeros_(model[4].weight)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    state = trained(model, data, optimizer, tmp_path / "c.pt", steps=1)
    problem, rule = make_problem(model, data), find_settings(Given(), state.settings, Given())
    matched = match_state(problem, rule, state)
    result = found_of(measure(problem, problem.receiving, rule, state, trained=True))[0]
    assert hardly_begun(matched) and result.second_moments == "checkpoint, in which Adam has hardly begun"
    assert 0.0 < result.ratio < 20.0
    assert not [finding for finding in judge(result) if finding.severity in ("warn", "critical")]
    assert "where Adam begins" in next(verdict(result))
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(data["x"]), data["y"])
        loss.backward()
        losses.append(float(loss))
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert not hardly_begun(match_state(problem, rule, trained(model, data, optimizer, tmp_path / "d.pt", steps=1)))
