"""Where a curve cannot be trusted: gradients of another loss, overflow, steps and changes below rounding."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.diagnostics.breakdown.derived import OTHER_GRADIENT, ROUNDED_LAYER, TOO_SMALL
from fromage_cli.diagnostics.breakdown.findings import judge
from fromage_cli.diagnostics.breakdown.grid import DEFAULT, eta_grid
from fromage_cli.diagnostics.breakdown.measure import measure
from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.missing import Missing, Why, found_of, known
from fromage_cli.probes.lines.direction import measured_move, moving_tensors
from fromage_cli.probes.lines.updates import fromage_direction, random_direction, sgd_direction
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
GRID = eta_grid(DEFAULT)


def along(
    problem: Problem, etas: tuple[float, ...] = GRID, make: Any = fromage_direction, *more: Any
) -> BreakdownResult:
    direction = make(problem, moving_tensors(problem, "matrices")[0], *more)
    return found_of(measure(problem, direction, etas))[0]


def accused(result: BreakdownResult) -> bool:
    found = "gradient-is-not-the-losses" in [finding.code for finding in judge(result)]
    assert found == result.contradicted
    return found


class _Pass(torch.autograd.Function):
    """Forward rounds to 1/16, backward passes straight through, times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounds: bool, factor: float) -> Tensor:
        ctx.factor = factor
        return (16 * x).round() / 16 if rounds else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return ctx.factor * slope, None, None


class Passing(nn.Module):
    """Two layers with a function between them whose backward pass is its own, or which rounds its weights."""

    def __init__(self, rounds: str = "", factor: float = 1.0) -> None:
        super().__init__()
        self.first, self.last, self.rounds, self.factor = nn.Linear(8, 16), nn.Linear(16, 3), rounds, factor

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight
        if self.rounds == "weights":
            weight = _Pass.apply(weight, True, 1.0)
        hidden = torch.tanh(nn.functional.linear(x, weight, self.first.bias))
        result: Tensor = self.last(_Pass.apply(hidden, self.rounds == "activations", self.factor))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rounds", "factor"), [("", -1.0), ("", 0.0), ("weights", 1.0), ("activations", 1.0)])
@pytest.mark.parametrize("make", [fromage_direction, sgd_direction])
def test_a_gradient_that_is_not_that_of_the_loss_certifies_nothing(
    make_problem: Maker, classification: dict[str, Tensor], dtype: torch.dtype, rounds: str, factor: float, make: Any
) -> None:
    data = {"x": classification["x"].to(dtype), "y": classification["y"]}
    result = along(make_problem(Passing(rounds, factor).to(dtype), data), GRID, make)
    if factor == 0.0:  # the first layer receives zeros and does not move: what moves is right
        assert not accused(result) and result.trust_relation == "above-grid"
        return
    assert accused(result)
    for number in (result.trust_eta, result.aggregate_trust_eta, result.linear_trust_eta, result.layers[0].trust_eta):
        assert number == OTHER_GRADIENT
    assert set(result.loss_bounds) == {OTHER_GRADIENT}
    assert result.limiting_layer is None and result.trust_relation == "uncertifiable"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_measured_slope_is_that_of_the_loss(
    make_problem: Maker, classification: dict[str, Tensor], dtype: torch.dtype
) -> None:
    data = {"x": classification["x"].to(dtype), "y": classification["y"]}
    reversed_ = along(make_problem(Passing(factor=-1.0).to(dtype), data))
    torch.manual_seed(0)
    plain = along(make_problem(Passing().to(dtype), data))
    exact = 1e-2 if dtype == torch.float32 else 1e-5
    assert not accused(plain) and plain.measured_loss_slope == pytest.approx(plain.loss_slope, rel=exact)
    assert known(reversed_.measured_loss_slope) is not None
    assert plain.loss_slope < 0.0 and reversed_.loss_slope < 0.0


def perceptron_with(*between: Callable[[], nn.Module], width: int = 16) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(8, width), *(make() for make in between), nn.ReLU(), nn.Linear(width, 3))


def pooling() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 6, 2), nn.MaxPool1d(3), nn.Flatten(), nn.Linear(6, 3))


FAITHFUL: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "deep ReLU": (lambda: nn.Sequential(*(m for _ in range(8) for m in (nn.Linear(8, 8), nn.ReLU()))), {}),
    "dropout": (perceptron_with(nn.Dropout), {"mode": "train"}),
    "BatchNorm": (perceptron_with(lambda: nn.BatchNorm1d(16)), {}),
    "autocast": (perceptron_with(nn.ReLU, lambda: nn.Linear(32, 32), width=32), {"autocast": True}),
    "max pooling": (pooling, {}),
}


@pytest.mark.parametrize("name", FAITHFUL)
@pytest.mark.parametrize("trained", [0, 60])
def test_a_faithful_gradient_is_not_accused(
    make_problem: Maker, classification: dict[str, Tensor], name: str, trained: int
) -> None:
    build, settings = FAITHFUL[name]
    for seed in range(3):
        torch.manual_seed(seed)
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(trained):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(classification["x"]), classification["y"]).backward()
            optimizer.step()
        optimizer.zero_grad()
        problem = make_problem(model, classification, **settings)
        for make, more in ((fromage_direction, ()), (sgd_direction, ()), (random_direction, (seed,))):
            assert not accused(along(problem, GRID, make, *more)), (name, seed, make)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1e-2])
def test_tiny_gradients_are_not_accused(make_problem: Maker, classification: dict[str, Tensor], scale: float) -> None:
    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return 1.0 + scale * self.last(torch.tanh(self.first(x))).square().mean()

    result = along(make_problem(Faint(), classification, "output"))
    assert not accused(result)
    assert isinstance(result.measured_loss_slope, Missing) == (scale < 1e-2)


class Exponential(nn.Module):
    """Its loss overflows beyond a step that is not large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.exp(20 * self.first(x)))
        return result


def test_beside_overflow_a_place_lies_between_two_points(make_problem: Maker) -> None:
    torch.manual_seed(5)
    data = {"x": torch.randn(64, 8), "y": torch.randn(64, 3)}
    torch.manual_seed(5)
    result = along(make_problem(Exponential(), data, "mse"))
    last = max(eta for eta, loss in zip(result.etas, result.losses, strict=True) if math.isfinite(loss))
    beyond = result.etas[result.etas.index(last) + 1]
    for name in ("trust_eta", "aggregate_trust_eta", "argmin_loss_eta", "first_increase_eta"):
        assert (getattr(result, name), getattr(result, f"{name}_upper")) == (last, beyond), name
    bounds = dict(zip(result.etas, result.loss_bounds, strict=True))
    assert bounds[last] < 0.0 and bounds[beyond] == math.inf


def test_steps_below_the_precision_are_not_resolved_and_float64_resolves_them(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    small, grid = eta_grid("1e-9:1e-7:5"), eta_grid("1e-9:1:19")
    problem = make_problem(perceptron, classification)
    nothing, both = along(problem, small), along(problem, grid)
    assert nothing.trust_eta == nothing.aggregate_trust_eta == nothing.first_increase_eta == TOO_SMALL
    assert set(nothing.loss_bounds) == set(nothing.layers[0].breakdown) == {TOO_SMALL}
    assert [finding.code for finding in judge(nothing)] == ["steps-too-small"]
    for eta, bound in zip(both.etas, both.loss_bounds, strict=True):
        assert (bound == TOO_SMALL) == (eta < 9.5e-7)
    data = {"x": classification["x"].double(), "y": classification["y"]}
    exact = make_problem(perceptron.double(), data)
    resolved, whole = along(exact, small), along(exact, grid)
    assert resolved.trust_relation == "above-grid" and known(resolved.layers[0].breakdown[0]) is not None
    assert TOO_SMALL not in resolved.loss_bounds
    assert both.trust_eta == pytest.approx(whole.trust_eta, rel=1e-3)


def smooth(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 3))


@pytest.mark.parametrize("seed", range(3))
def test_under_autocast_what_is_left_of_the_curve_is_that_of_float64(
    make_problem: Maker, classification: dict[str, Tensor], seed: int
) -> None:
    grid = eta_grid("1e-5:1:21")
    narrow = along(make_problem(smooth(seed), classification, autocast=True), grid)
    data = {"x": classification["x"].double(), "y": classification["y"]}
    exact = along(make_problem(smooth(seed).double(), data), grid)
    for first, second in zip(narrow.layers, exact.layers, strict=True):
        assert 1e-3 < known(first.noise_floor) < 0.1
        pairs = list(zip(first.breakdown, second.breakdown, strict=True))
        hidden = [value for value, _ in pairs if isinstance(value, Missing)]
        assert hidden and {value.code for value in hidden} == {Why.HIDDEN_BY_ROUNDING}
        for value, true in pairs:
            assert isinstance(value, Missing) or value == pytest.approx(true, rel=0.25)
    for name in ("trust_eta", "aggregate_trust_eta", "first_increase_eta", "argmin_loss_eta"):
        place, true = getattr(narrow, name), getattr(exact, name)
        assert place == (true if isinstance(true, Missing) else pytest.approx(true, rel=0.05)), name
    assert {finding.code for finding in judge(narrow)} == {"noisy-gradient"}


def fitted(depth: int, activation: type[nn.Module], loss: float, data: dict[str, Tensor]) -> nn.Module:
    torch.manual_seed(3)
    layers = [module for _ in range(depth - 2) for module in (nn.Linear(32, 32), activation())]
    model = nn.Sequential(nn.Linear(8, 32), activation(), *layers, nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(3000):
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(model(data["x"]), data["y"])
        found.backward()
        if float(found.detach()) < loss:
            break
        optimizer.step()
    optimizer.zero_grad()
    return model


@pytest.mark.parametrize(
    ("depth", "activation", "loss", "rounded"),
    [(2, nn.Tanh, 1e-2, False), (4, nn.Tanh, 1e-2, False), (2, nn.Tanh, 1e-3, False), (4, nn.ReLU, 1e-3, True)],
)
def test_where_a_batch_is_fitted_autocast_says_what_float32_says_of_the_same_step_or_nothing(
    make_problem: Maker,
    classification: dict[str, Tensor],
    depth: int,
    activation: type[nn.Module],
    loss: float,
    rounded: bool,
) -> None:
    model = fitted(depth, activation, loss, classification)
    narrow, wide = (make_problem(model, classification, autocast=autocast) for autocast in (True, False))
    line = fromage_direction(narrow, moving_tensors(narrow, "matrices")[0])
    source = line.source
    moves = [measured_move(wide, move.tensor, move.coefficient, source(move.tensor)) for move in line.moves]
    same = replace(line, moves=tuple(moves), along_gradients=False)
    found, exact = (found_of(measure(on, along, GRID))[0] for on, along in ((narrow, line), (wide, same)))
    for first, second in zip(found.layers, exact.layers, strict=True):
        for value, true in zip(first.breakdown, second.breakdown, strict=True):
            if known(value) is not None and known(value) < 2.0:
                assert value == pytest.approx(true, rel=0.5)
    withheld = [number == ROUNDED_LAYER for number in (found.trust_eta, found.linear_trust_eta)]
    assert withheld == [rounded, rounded] == [bool(found.noise), found.limiting_layer is None]
    for name in ("trust_eta", "aggregate_trust_eta", "linear_trust_eta", "argmin_loss_eta", "first_increase_eta"):
        place = known(getattr(found, name))
        assert place is None or place == pytest.approx(getattr(exact, name), rel=0.5), name


def test_along_fromage_a_head_of_zeros_is_answered(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    nn.init.zeros_(perceptron[4].weight)
    problem = make_problem(perceptron, classification)
    result = along(problem)
    trust = known(result.aggregate_trust_eta)
    assert result.without_size == ("4.weight",) and result.limiting_layer == "4.weight" and trust is not None
    assert "layers-without-size" in [finding.code for finding in judge(result)]
    assert isinstance(result.layers[0].relative_step, Missing) and not accused(result)
    losses = along(problem, (trust / 4.0, trust / 2.0, trust)).losses
    assert max(losses) < result.loss


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("place", [2, 5, 8])
def test_a_layer_that_begins_too_large_or_too_small_is_named_and_not_the_first_to_give_way(
    make_problem: Maker, classification: dict[str, Tensor], factor: float, place: int
) -> None:
    torch.manual_seed(0)
    hidden = [module for _ in range(8) for module in (nn.Linear(16, 16), nn.Tanh())]
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), *hidden, nn.Linear(16, 3))
    assert along(make_problem(model, classification), (1e-3,)).out_of_line == ()
    with torch.no_grad():
        model[2 * place].weight.mul_(factor)
    result = along(make_problem(model, classification), (1e-3, 1e-2))
    assert [(odd.name, odd.quantity) for odd in result.out_of_line] == [(f"{2 * place}.weight", "weights")]
    assert result.out_of_line[0].factor == pytest.approx(factor, rel=0.15)
    said = [finding for finding in judge(result) if finding.code == "layer-out-of-line"]
    severity = "warn" if factor > 1.0 else "info"
    assert [(finding.severity, finding.layer) for finding in said] == [(severity, f"{2 * place}.weight")]
    assert "× as large as in its sibling layers" in said[0].message
