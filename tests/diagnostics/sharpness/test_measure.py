import copy
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.diagnostics.sharpness.cost import Request
from fromage_cli.diagnostics.sharpness.measure import measure
from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.diagnostics.sharpness.verdict import NOT_TOLD
from fromage_cli.errors import FromageError, MismatchError, NumericalError, ResourceError
from fromage_cli.missing import (
    LEARNING_RATE_UNKNOWN,
    LIMIT_REACHED,
    OPTIMIZER_UNKNOWN,
    Missing,
    Why,
    found_of,
    known,
)
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.curvature.threshold import stable_rate
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_update import next_update
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace, gauss_newton, hessian
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
UNKNOWN = Optimizer()


@dataclass(frozen=True)
class Measured:
    result: SharpnessResult
    error: FromageError | None


def sharpness(
    problem: Problem, optimizer: Optimizer = UNKNOWN, state: OptimizerState | None = None, **settings: Any
) -> Measured:
    return Measured(*found_of(measure(problem, problem.receiving, optimizer, state, **settings)))


def dense(problem: Problem, operator: Any) -> Tensor:
    space = WeightSpace(problem.receiving)
    size = sum(weight.numel() for weight in space.weights)
    with operator(problem, space) as product:
        return torch.stack([product(row) for row in torch.eye(size, dtype=problem.dtype)])


def reasons(measured: Measured) -> dict[str, str]:
    return {name: why.words for name, why in missing(measured.result, "").items()}


def missing(item: Any, place: str) -> dict[str, Missing]:
    if isinstance(item, Missing):
        return {place.removeprefix("."): item}
    held = vars(item).items() if is_dataclass(item) else ()
    return {path: why for name, one in held for path, why in missing(one, f"{place}.{name}").items()}


@pytest.fixture
def regression() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(24, 5, generator=generator).double(),
        "y": torch.randn(24, 1, generator=generator).double(),
    }


@pytest.fixture
def linear(make_problem: Maker, regression: dict[str, Tensor]) -> Problem:
    torch.manual_seed(0)
    return make_problem(nn.Linear(5, 1, bias=False).double(), regression)


def test_a_linear_model_with_squared_error_has_the_eigenvalues_of_its_data(
    linear: Problem, regression: dict[str, Tensor]
) -> None:
    result = sharpness(linear, Optimizer("sgd", 0.1), request=Request(count=5, tolerance=1e-9)).result
    exact = torch.linalg.eigvalsh(regression["x"].T @ regression["x"] * 2 / 24).flip(0).tolist()
    assert [pair.value for pair in result.eigenvalues] == pytest.approx(exact, rel=1e-8)
    assert result.gauss_newton_eigenvalue == pytest.approx(exact[0], rel=1e-8)
    assert (result.threshold, result.ratio) == (20.0, pytest.approx(exact[0] / 20.0))
    assert (result.scaled_ratio, result.regime) == (pytest.approx(exact[0] / 10.0), "lazy")
    assert (result.tensors, result.parameters) == (1, 5)
    assert known(result.batch_sharpness) is not None
    assert known(result.critical_sharpness) is not None and result.critical_sharpness <= exact[0] * 1.03


def test_the_classifiers_eigenvalues_are_those_of_dense_matrices(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    data = {"x": classification["x"].double(), "y": classification["y"]}
    problem = make_problem(perceptron.double(), data)
    result = sharpness(problem, request=Request(count=3)).result
    exact = torch.linalg.eigvalsh(dense(problem, hessian)).flip(0)[:3].tolist()
    for pair, truth in zip(result.eigenvalues, exact, strict=True):
        assert abs(pair.value - truth) <= pair.residual <= 1e-3 * pair.value
        assert pair.value == pytest.approx(truth, rel=1e-3)
    outer = float(torch.linalg.eigvalsh(dense(problem, gauss_newton))[-1])
    assert result.gauss_newton_eigenvalue == pytest.approx(outer, rel=1e-3)


@pytest.mark.parametrize(("kind", "coupled"), [(torch.optim.Adam, 0.4), (torch.optim.AdamW, 0.0)])
def test_adams_threshold_is_held_against_the_preconditioned_hessian(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, Tensor],
    tmp_path: Path,
    kind: Any,
    coupled: float,
) -> None:
    data = {"x": classification["x"].double(), "y": classification["y"]}
    perceptron.double()
    optimizer = kind(perceptron.parameters(), lr=0.01, weight_decay=0.4, eps=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(perceptron(data["x"]), data["y"]).backward()
        optimizer.step()
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    problem = make_problem(perceptron, data)
    result = sharpness(problem, find_settings(Given(), state.settings, Given()), state, trained=True).result
    roots = [((optimizer.state[p]["exp_avg_sq"] / (1 - 0.999**5)).sqrt() + 1e-3) for p in perceptron.parameters()]
    scale = torch.cat([(root * (1 - 0.9**5)).rsqrt().reshape(-1) for root in roots])
    matrix = scale[:, None] * (dense(problem, hessian) + coupled * torch.eye(len(scale))) * scale
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    threshold = 3800.0 if coupled else 3800.0 * (1 - 0.01 * 0.4 / 2)
    assert result.preconditioned_eigenvalue == pytest.approx(exact, rel=1e-3)
    assert abs(result.preconditioned_eigenvalue - exact) <= result.preconditioned_residual <= 1e-3 * exact
    assert result.threshold == pytest.approx(threshold)
    assert result.ratio == pytest.approx(exact / threshold, rel=1e-3)


def test_coupled_decay_counts_to_the_eigenvalue(linear: Problem) -> None:
    plain = sharpness(linear, Optimizer("sgd", 0.1)).result
    decayed = sharpness(linear, Optimizer("sgd", 0.1, weight_decay=3.0, decay_given=True)).result
    assert decayed.eigenvalues == plain.eigenvalues
    assert decayed.ratio == pytest.approx((plain.eigenvalues[0].value + 3.0) / 20.0)


SGD = torch.optim.SGD


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        (Optimizer("sgd", 1.0), lambda rate: partial(SGD, lr=rate)),
        (Optimizer("sgd", 1.0, 0.9), lambda rate: partial(SGD, lr=rate, momentum=0.9)),
        (Optimizer("sgd", 1.0, 0.8, 0.5), lambda rate: partial(SGD, lr=rate, momentum=0.8, dampening=0.5)),
        (Optimizer("sgd", 1.0, 0.9, nesterov=True), lambda rate: partial(SGD, lr=rate, momentum=0.9, nesterov=True)),
        (Optimizer("sgd", 1.0, weight_decay=2.0), lambda rate: partial(SGD, lr=rate, weight_decay=2.0)),
    ],
)
def test_real_training_diverges_from_a_ratio_of_one_on(
    linear: Problem, regression: dict[str, Tensor], optimizer: Optimizer, make: Any
) -> None:
    unit = sharpness(linear, optimizer, request=Request(tolerance=1e-6)).result.ratio
    assert unit is not None  # the ratio is proportional to the rate

    def diverges(ratio: float) -> bool:
        model = copy.deepcopy(linear.model)
        rule = make(ratio / unit)(model.parameters())
        for _ in range(600):  # at 1.05 the error grows by a tenth in each
            rule.zero_grad()
            loss = nn.functional.mse_loss(model(regression["x"]), regression["y"])
            if not float(loss.detach()) < 1e6:
                return True
            loss.backward()
            rule.step()
        return False

    assert sharpness(linear, replace(optimizer, learning_rate=0.5 / unit)).result.ratio == pytest.approx(0.5, rel=1e-3)
    assert (diverges(0.95), diverges(1.05)) == (False, True)


class TwoLayers(nn.Module):
    """A wide linear network in the parametrisation of Lewkowycz et al.: f = v u x / sqrt(m)."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(width, 1, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(1, width, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.first.T @ self.second.T / self.first.shape[0] ** 0.5


@pytest.mark.parametrize(
    ("scaled", "regime", "rises", "survives"),
    [
        (1.0, "lazy", False, True),
        (1.5, "lazy", False, True),
        (2.5, "catapult", True, True),
        (3.5, "catapult", True, True),
        (4.5, "architecture-dependent", True, False),
    ],
)
def test_training_does_what_the_regime_says(
    make_problem: Maker, scaled: float, regime: str, rises: bool, survives: bool
) -> None:
    torch.manual_seed(3)
    model = TwoLayers()
    data = {"x": torch.ones(1, 1).double(), "y": torch.zeros(1, 1).double()}
    problem = make_problem(model, data)
    # At this random start the residual's own curvature is a few per cent of the Gauss-Newton part.
    eigenvalue = sharpness(problem).result.gauss_newton_eigenvalue
    assert eigenvalue is not None
    rate = scaled / eigenvalue
    assert sharpness(problem, Optimizer("sgd", rate)).result.regime == regime
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = (model(data["x"]) - data["y"]).square().mean()
        losses.append(float(loss.detach()))
        if not losses[-1] < 1e12:
            break
        loss.backward()
        optimizer.step()
    assert (max(losses) > 2 * losses[0]) == rises
    assert (losses[-1] < 1e-6) == survives


def test_bands_above_the_threshold_are_for_squared_error_at_initialisation(
    make_problem: Maker, linear: Problem, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    top = sharpness(linear).result.eigenvalues[0].value
    assert sharpness(linear, Optimizer("sgd", 3.0 / top)).result.regime == "catapult"
    assert sharpness(linear, Optimizer("sgd", 13.0 / top)).result.regime == "architecture-dependent"
    edge = sharpness(linear, Optimizer("sgd", 2.2 / top), trained=True)
    assert edge.result.regime == "edge-of-stability"
    beyond = sharpness(linear, Optimizer("sgd", 5.0 / top), trained=True)
    assert known(beyond.result.regime) is None
    none = "no study says how training with {} and squared error goes on from here"
    assert reasons(beyond)["regime"] == none.format("plain descent")
    for rate, word in ((0.01, "lazy"), (100.0, "architecture-dependent")):
        entropy = make_problem(perceptron, classification)
        assert sharpness(entropy, Optimizer("sgd", rate)).result.regime == word
        assert "regime" in reasons(sharpness(entropy, Optimizer("sgd", rate), trained=True))
    momentum = sharpness(linear, Optimizer("sgd", 3.2 / top, 0.9), trained=True)
    assert reasons(momentum)["regime"] == none.format("momentum")
    assert sharpness(linear, Optimizer("sgd", 3.2 / top, 0.9)).result.regime == "architecture-dependent"
    assert sharpness(linear, Optimizer("sgd", 1.0 / top, 0.9)).result.regime == "lazy"
    strong = sharpness(linear, Optimizer("sgd", 1.0 / top, 0.99))
    assert reasons(strong)["regime"] == none.format("this momentum")
    adam = sharpness(linear, Optimizer("adam", 0.001))
    assert "did not tell how training goes on" in reasons(adam)["regime"]


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer("sgd", 0.1),
        Optimizer("sgd", 0.1, 0.9, nesterov=True),
        Optimizer("sgd", 0.1, weight_decay=3.0, decay_given=True),
        Optimizer("adamw", 0.1, weight_decay=0.3),
    ],
)
def test_at_the_stable_rate_the_ratio_is_one(linear: Problem, optimizer: Optimizer) -> None:
    request = Request(tolerance=1e-8)
    rate = sharpness(linear, optimizer, request=request).result.stable_learning_rate
    assert (
        sharpness(linear, replace(optimizer, learning_rate=None), request=request).result.stable_learning_rate == rate
    )
    at_it = sharpness(linear, replace(optimizer, learning_rate=rate), request=request)
    assert at_it.result.ratio == pytest.approx(1.0, rel=1e-6)


def test_before_its_first_step_adam_has_moments_of_minibatches_as_in_suggest_lr(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    data = {"x": classification["x"].double(), "y": classification["y"]}
    problem = make_problem(perceptron.double(), data)
    optimizer = Optimizer("adamw", 0.01)
    result = sharpness(problem, optimizer, request=Request(tolerance=1e-6)).result
    rows, count = len(data["x"]) // 16, 16
    squares = [torch.zeros_like(p) for p in perceptron.parameters()]
    for part in range(count):
        chosen = slice(part * rows, (part + 1) * rows)
        loss = nn.functional.cross_entropy(perceptron(data["x"][chosen]), data["y"][chosen])
        for square, gradient in zip(squares, torch.autograd.grad(loss, [*perceptron.parameters()]), strict=True):
            square.add_(gradient.square(), alpha=1.0 / count)
    scale = torch.cat([(square.sqrt() + 1e-8).rsqrt().reshape(-1) for square in squares])
    exact = float(torch.linalg.eigvalsh(scale[:, None] * dense(problem, hessian) * scale)[-1])
    assert result.preconditioned_eigenvalue == pytest.approx(exact, rel=1e-5)
    assert result.second_moments == f"16 gradients of {rows} rows each at fixed weights"
    update = next_update(MatchedState(problem, optimizer), problem.receiving)
    stable = stable_rate(MatchedState(problem, optimizer), problem.receiving, update.memory)
    assert result.stable_learning_rate == pytest.approx(stable.learning_rate, rel=1e-2)


def test_adams_first_step_is_as_large_as_the_rate_and_raises_the_loss_from_its_own_sharpness_on(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    data = {"x": classification["x"].double(), "y": classification["y"]}
    problem = make_problem(perceptron.double(), data)
    result = sharpness(problem, Optimizer("adam", 0.01)).result
    assert result.first_step_ratio == pytest.approx(0.01 * result.first_step_sharpness / 2.0)

    def after(rate: float) -> float:
        model = copy.deepcopy(perceptron)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
        optimizer.step()
        moved = [(a - b).abs().max() for a, b in zip(model.parameters(), perceptron.parameters(), strict=True)]
        assert float(max(moved)) == pytest.approx(rate, rel=1e-4)
        return float(nn.functional.cross_entropy(model(data["x"]), data["y"]))

    rate = 2.0 / result.first_step_sharpness
    assert after(0.9 * rate) < problem.base.loss < after(1.1 * rate)


@pytest.mark.parametrize("optimizer", [Optimizer("sgd", 0.1, 0.9), Optimizer("adamw", 0.01, weight_decay=0.1)])
def test_a_loss_without_slope_is_not_called_uphill(
    make_problem: Maker, optimizer: Optimizer, regression: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 1, bias=False).double()

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = model

        def forward(self, x: Tensor) -> Tensor:
            return (self.linear(x) * 0.0).sum() + 1.0

    exact = {"x": regression["x"], "y": model(regression["x"]).detach()}
    for problem in (make_problem(Constant(), {"x": regression["x"]}, "output"), make_problem(model, exact)):
        measured = sharpness(problem, optimizer, request=Request(simulated_steps=2))
        assert reasons(measured)["critical_sharpness"] == (
            "the loss has no slope along the step: its gradient is zero there"
        )
        assert measured.result.eigenvalues[0].value >= 0.0


def test_what_is_null_has_a_reason(make_problem: Maker, regression: dict[str, Tensor], linear: Problem) -> None:
    unknown = sharpness(linear)
    assert set(reasons(unknown)) == {
        "preconditioned_eigenvalue",
        "preconditioned_residual",
        "second_moments",
        "draws",
        "critical_sharpness",
        "critical_sharpness_stderr",
        "first_step_sharpness",
        "first_step_ratio",
        "quadratic",
        "learning_rate",
        "momentum",
        "threshold",
        "ratio",
        "scaled_ratio",
        "stable_learning_rate",
        "regime",
    }
    assert "optimizer is not known" in reasons(unknown)["threshold"]
    assert "learning rate is not known" in reasons(sharpness(linear, Optimizer("sgd")))["threshold"]
    adam = sharpness(linear, Optimizer("adam", 0.1), trained=True)
    assert known(adam.result.ratio) is not None
    assert "before its first step" in reasons(adam)["first_step_ratio"]

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).square().mean()

    output = sharpness(make_problem(Summed(), {"x": regression["x"]}, "output"))
    assert "(output) is not a known function" in reasons(output)["gauss_newton_eigenvalue"]
    stepped = sharpness(make_problem(Summed(), {"x": regression["x"]}, "output"), Optimizer("sgd", 0.1))
    assert known(stepped.result.quadratic) is None and known(stepped.result.critical_sharpness) is not None
    assert "(output) is not a known function" in reasons(stepped)["quadratic"]
    lion = sharpness(linear, Optimizer("lion", 0.01), request=Request(simulated_steps=2))
    assert "not proportional to the gradient" in reasons(lion)["threshold"]
    assert known(lion.result.quadratic) is not None and len(lion.result.quadratic.losses) == 3
    assert "takes two training batches" in reasons(sharpness(linear, request=Request(batch_rows=20)))["batch_sharpness"]


def test_the_quadratic_model_shows_the_catapult_that_the_regime_names(make_problem: Maker) -> None:
    torch.manual_seed(3)
    problem = make_problem(TwoLayers(), {"x": torch.ones(1, 1).double(), "y": torch.zeros(1, 1).double()})
    eigenvalue = sharpness(problem).result.gauss_newton_eigenvalue
    assert eigenvalue is not None
    found = sharpness(problem, Optimizer("sgd", 3.0 / eigenvalue), request=Request(simulated_steps=40)).result
    assert found.regime == "catapult"
    assert found.quadratic is not None
    assert (found.quadratic.spikes, found.quadratic.outcome) == (True, "spikes")
    assert found.quadratic.line_losses == pytest.approx(found.quadratic.line_model_losses)  # the network is quadratic
    assert found.quadratic.radius_relation == found.quadratic.radius.code == Why.ABOVE_GRID


def test_without_a_rate_there_is_a_radius_and_no_training(linear: Problem) -> None:
    measured = sharpness(linear, Optimizer("sgd"), request=Request(simulated_steps=5))
    quadratic = measured.result.quadratic
    assert quadratic is not None and not quadratic.losses
    assert quadratic.spikes == quadratic.outcome == LEARNING_RATE_UNKNOWN
    assert "rate is not known" in reasons(measured)["quadratic.spikes"]
    assert "no step" in reasons(sharpness(linear, Optimizer("sgd", 0.1)))["quadratic.spikes"]


def test_the_critical_sharpness_has_an_error_over_parts_of_the_rows(linear: Problem) -> None:
    result = sharpness(linear, Optimizer("sgd", 0.1)).result
    assert known(result.critical_sharpness) is not None and known(result.critical_sharpness_stderr) is not None
    assert 0.0 < result.critical_sharpness_stderr < result.critical_sharpness
    one = sharpness(linear, Optimizer("sgd", 0.1), request=Request(batch_rows=20))
    assert known(one.result.critical_sharpness_stderr) is None
    assert "two parts" in reasons(one)["critical_sharpness_stderr"]


def test_each_layers_own_block_has_the_eigenvalue_of_the_dense_one(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    data = {"x": classification["x"].double(), "y": classification["y"]}
    problem = make_problem(perceptron.double(), data)
    measured = sharpness(problem, request=Request(blocks=True, tolerance=1e-6))
    whole, sizes, start = dense(problem, hessian), [t.parameter.numel() for t in problem.receiving], 0
    exact = {}
    for tensor, size in zip(problem.receiving, sizes, strict=True):
        exact[tensor.name] = float(torch.linalg.eigvalsh(whole[start : start + size, start : start + size])[-1])
        start += size
    layers = measured.result.layers
    assert [layer.name for layer in layers] == ["0.weight", "2.weight", "4.weight"]
    assert (layers[0].kind, layers[0].shape, layers[0].parameters) == ("Linear", (16, 8), 128)
    for layer in layers:
        assert layer.eigenvalue == pytest.approx(exact[layer.name], rel=1e-6)
        assert layer.residual is not None and layer.residual <= 1e-6 * exact[layer.name]
    assert sharpness(problem).result.layers == ()


def test_a_limit_leaves_blocks_without_a_number(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    problem.base, seen = problem.base, []

    def advance() -> None:
        seen.append(1)
        if len(seen) == 30:
            problem.budget = Budget(seconds=0.0)

    measured = sharpness(problem, advance=advance, request=Request(blocks=True))
    assert isinstance(measured.error, ResourceError)
    assert len(measured.result.layers) == 3
    assert measured.result.layers[-1].eigenvalue == measured.result.layers[-1].residual == LIMIT_REACHED


def test_a_limit_during_the_simulation_keeps_its_steps(linear: Problem) -> None:
    seen: list[int] = []
    full = sharpness(linear, Optimizer("sgd", 0.1), advance=lambda: seen.append(1))
    before = len(seen)
    assert full.error is None

    def advance() -> None:
        seen.append(1)
        if len(seen) == 2 * before + 2:
            linear.budget = Budget(seconds=0.0)

    cut = sharpness(linear, Optimizer("sgd", 0.1), advance=advance, request=Request(simulated_steps=9))
    assert isinstance(cut.error, ResourceError)
    assert known(cut.result.quadratic) is not None and len(cut.result.quadratic.losses) == 3


def test_batches_are_not_cut_where_their_rows_decide_the_loss(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    problem = make_problem(model, {"x": torch.randn(24, 5), "y": torch.randn(24, 1)})
    missing = reasons(sharpness(problem, Optimizer("sgd", 0.1)))
    assert "--train-batch-size" in missing["batch_sharpness"]
    assert "--train-batch-size" in missing["critical_sharpness_stderr"]
    assert known(sharpness(problem, request=Request(batch_rows=8)).result.batch_sharpness) is not None
    problem.mode = "eval"
    assert known(sharpness(problem).result.batch_sharpness) is not None


def test_a_loss_that_small_batches_do_not_bear_has_no_batch_sharpness(make_problem: Maker) -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) < 8:
                raise ValueError("too few rows")
            return self.linear(x).var(0).sum()

    measured = sharpness(make_problem(Spread(), {"x": torch.randn(24, 5)}, "output"))
    assert "too few rows" in reasons(measured)["batch_sharpness"]
    assert measured.result.eigenvalues and measured.error is None


def test_iterations_that_do_not_converge_are_told_and_what_was_found_is_kept(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    measured = sharpness(make_problem(perceptron, classification), request=Request(tolerance=1e-6, max_products=2))
    assert isinstance(measured.error, NumericalError)
    assert "eigenvalues did not converge" in measured.error.message
    assert "--max-iterations" in measured.error.hint
    assert len(measured.result.eigenvalues) == 1


def test_products_in_bfloat16_are_too_inexact_for_a_small_residual(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(perceptron, classification, autocast=True)
    measured = sharpness(problem, request=Request(tolerance=1e-5))
    assert isinstance(measured.error, NumericalError)
    assert "too inexact for eigenvalues" in measured.error.message
    assert "--autocast" in measured.error.hint


def test_a_limit_keeps_what_was_measured_before(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    seen = []

    def advance() -> None:
        seen.append(1)
        if len(seen) == 3:
            problem.budget = Budget(seconds=0.0)

    measured = sharpness(problem, Optimizer("sgd", 0.1), advance=advance, request=Request(tolerance=1e-6))
    assert isinstance(measured.error, ResourceError)
    assert len(measured.result.eigenvalues) == 1
    assert known(measured.result.gauss_newton_eigenvalue) is None
    assert "limit" in reasons(measured)["gauss_newton_eigenvalue"]
    assert "limit" in reasons(measured)["critical_sharpness"]


@pytest.mark.parametrize("loss", ["cross-entropy", "output"])
@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(),
        Optimizer("sgd"),
        Optimizer("sgd", 0.1, 0.9),
        Optimizer("sgd", 0.1, weight_decay=-5.0),
        Optimizer("adam", 0.1),
        Optimizer("lars", 0.1, 0.8),
        Optimizer("fromage", 0.1),
    ],
)
def test_whatever_is_null_has_its_reason(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor], optimizer: Optimizer, loss: str
) -> None:
    if loss == "output":
        perceptron = nn.Sequential(perceptron, nn.LogSoftmax(1), Mean())
    problem = make_problem(perceptron, classification, loss)
    for trained in (False, True):
        measured = sharpness(problem, optimizer, trained=trained)
        result, told = measured.result, reasons(measured)
        without = {"optimizer", "momentum", "lowest_learning_rate"}
        assert {name for name, value in vars(result).items() if value is None} <= without
        assert all(told.values())
        none = OPTIMIZER_UNKNOWN if optimizer.name is None else None
        assert result.momentum == (optimizer.momentum if optimizer.name in ("sgd", "lars") else none)
    stopped = make_problem(perceptron, classification, loss)
    problem.base  # noqa: B018
    stopped.__dict__["base"], stopped.budget = problem.base, Budget(seconds=0.0)
    measured = sharpness(stopped, optimizer)
    assert {"gauss_newton_eigenvalue", "critical_sharpness", "critical_sharpness_stderr", "quadratic"} <= set(
        reasons(measured)
    )


def test_a_step_uphill_is_told_from_a_rise_that_was_not_seen(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    along = sum(float((problem.base.gradients[t.name] * t.parameter).sum()) for t in problem.receiving)
    measured = sharpness(problem, Optimizer("sgd", 0.1, weight_decay=-1e4 if along > 0.0 else 1e4))
    assert known(measured.result.critical_sharpness) is None
    assert reasons(measured)["critical_sharpness"] == "the step goes uphill from the start: every rate raises the loss"


def test_an_optimizer_that_moves_nothing_leaves_the_curvature(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    """Muon covers matrices only."""
    problem = make_problem(perceptron, classification)
    biases = [tensor for tensor in problem.receiving if not tensor.is_layer]
    result = measure(problem, biases, Optimizer("muon", 0.1), None, request=Request(simulated_steps=2))
    measured = Measured(*found_of(result))
    assert len(measured.result.eigenvalues) == 1 and known(measured.result.quadratic) is None
    for name in ("critical_sharpness", "critical_sharpness_stderr", "quadratic"):
        assert reasons(measured)[name] == "muon moves none of the chosen tensors"


class Mean(nn.Module):
    """A model whose output is its loss."""

    def forward(self, x: Tensor) -> Tensor:
        return -x[:, 0].mean()


def test_curvature_that_is_not_finite_is_refused(make_problem: Maker) -> None:
    class Root(nn.Module):
        """Finite loss and gradient, infinite second derivative."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).abs().pow(1.5).mean()

    problem = make_problem(Root(), {"x": torch.ones(4, 2)}, "output")
    with pytest.raises(NumericalError, match="curvature is not finite"):
        sharpness(problem)


def test_weights_and_gradients_are_left_as_they_were(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    request = Request(simulated_steps=3, blocks=True)
    sharpness(make_problem(perceptron, classification), Optimizer("sgd", 0.1, 0.9), request=request)
    for name, value in perceptron.named_parameters():
        assert torch.equal(value.detach(), before[name])
        assert value.grad is None


def test_a_state_with_gaps_leaves_only_the_simulation_out(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor], tmp_path: Path
) -> None:
    optimizer = torch.optim.AdamW(perceptron.parameters(), lr=0.01)
    nn.functional.cross_entropy(perceptron(classification["x"]), classification["y"]).backward()
    optimizer.step()
    saved = optimizer.state_dict()
    del saved["state"][0]["exp_avg"]
    torch.save({"model": perceptron.state_dict(), "optimizer": saved}, tmp_path / "c.pt")
    state, problem = open_checkpoint(tmp_path / "c.pt").optimizer, make_problem(perceptron, classification)
    rule = find_settings(Given(), state.settings, Given())
    measured = sharpness(problem, rule, state, request=Request(simulated_steps=2))
    assert "lacks 'exp_avg' of some tensor" in reasons(measured)["quadratic.spikes"]
    assert known(measured.result.quadratic) is not None and known(measured.result.quadratic.spikes) is None
    assert known(measured.result.ratio) is not None


def test_a_state_that_does_not_fit_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor], tmp_path: Path
) -> None:
    other = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(other.parameters())
    other(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": other.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    problem = make_problem(perceptron, classification)
    with pytest.raises(MismatchError, match="optimizer's state has 2 parameters"):
        sharpness(problem, find_settings(Given(), state.settings, Given()), state)
    assert problem.evaluations.hessian_vector_products == 0, "it is said before the curvature is measured"


def test_without_a_step_the_file_does_not_say_whether_training_has_begun(
    make_problem: Maker, regression: dict[str, Tensor]
) -> None:
    problem = make_problem(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double(), regression)
    rule = Optimizer("sgd", 1e-3, momentum=0.9)
    told = {begun: sharpness(problem, rule, trained=begun).result for begun in (None, True)}
    assert told[None].trained and told[None].regime == NOT_TOLD
    assert told[True].regime != NOT_TOLD and isinstance(told[True].regime, Missing)
    adam = sharpness(problem, Optimizer("adam", 1e-3), trained=None).result
    assert adam.first_step_sharpness == NOT_TOLD


def test_a_state_of_empty_slots_stands_before_the_first_step(
    make_problem: Maker, regression: dict[str, Tensor], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 0}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    problem = make_problem(model, regression)
    assert state is not None
    empty = sharpness(problem, Optimizer("adamw", 1e-3), state).result
    bare = sharpness(problem, Optimizer("adamw", 1e-3)).result
    assert not isinstance(bare.first_step_sharpness, Missing)
    assert empty.first_step_sharpness == pytest.approx(bare.first_step_sharpness, rel=1e-2)  # only one decays


@pytest.mark.parametrize(("rows", "normalised"), [(None, False), (6, False), (24, False), (None, True), (24, True)])
def test_adam_without_state_has_the_second_moments_that_suggest_lr_has(
    make_problem: Maker, regression: dict[str, Tensor], rows: int | None, normalised: bool
) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8) if normalised else nn.Tanh()
    problem = make_problem(nn.Sequential(nn.Linear(5, 8), norm, nn.Tanh(), nn.Linear(8, 1)).double(), regression)
    rule = Optimizer("adamw", 1e-3)
    result = sharpness(problem, rule, request=Request(batch_rows=rows, tolerance=1e-6)).result
    update = next_update(MatchedState(problem, rule), problem.receiving, batch_size=rows)
    assert result.second_moments == update.source
    assert ("cannot be split" in update.source) == normalised
    stable = stable_rate(MatchedState(problem, rule), problem.receiving, update.memory, update.source)
    assert result.stable_learning_rate == pytest.approx(stable.learning_rate, rel=1e-3)
    assert f"(second moments from {update.source})" in stable.words
