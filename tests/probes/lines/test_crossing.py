"""The crossing against a dense grid, and the certificate it stands for: the step is taken and the loss falls."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.lines.crossing import Crossing, find_crossing, find_sum_crossing
from fromage_cli.probes.lines.ray import measure_ray
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_step import measure_next_step
from fromage_cli.probes.optimizer_step.step_direction import StepLine, step_line
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.curves import first_crossing, running_maximum

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]


def line_of(problem: Problem, name: str) -> StepLine:
    return step_line(problem, problem.receiving, measure_next_step(MatchedState(problem, Optimizer(name))), name)


def crossing_of(problem: Problem, name: str = "sgd") -> tuple[StepLine, Crossing]:
    line = line_of(problem, name)
    return line, find_crossing(problem, line.direction, line.cosines)


def equivalents(problem: Problem) -> float:
    done = problem.evaluations
    return done.gradients + done.forwards / 3 + done.hessian_vector_products * 7 / 3


def smooth(width: int = 16) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))


@pytest.mark.parametrize("name", ["sgd", "fromage", "lion", "adamw"])
@pytest.mark.parametrize("rectified", [False, True])
def test_it_is_the_crossing_of_a_dense_grid(
    make_problem: Maker, perceptron: nn.Module, classification: Data, name: str, rectified: bool
) -> None:
    problem = make_problem(perceptron if rectified else smooth(), classification)
    line, found = crossing_of(problem, name)
    cost = equivalents(problem)
    assert found.relation == "crossing" and found.closed and found.eta is not None and found.upper is not None
    assert cost <= 11  # one more for the noise makes 12
    etas = [found.eta * factor / 100 for factor in range(4, 121, 4)]
    ray = measure_ray(problem, line.direction, etas)
    places = []
    vectors = [move for move in line.direction.moves if not move.tensor.is_layer]
    for group in (*([move] for move in line.direction.moves if move.tensor.is_layer), vectors):
        lost = [sum(m.step_norm * ray.changes[m.tensor.name][place] for m in group) for place in range(len(etas))]
        kept = sum(m.gradient_norm * m.step_norm * line.cosines[m.tensor.name] for m in group)
        crossing = first_crossing(etas, running_maximum(lost), kept)
        places.append((crossing.eta or 9.0, [move.tensor.name for move in group]))
    expected, limiting = min(places)
    assert found.eta <= expected * 1.01 and expected * 0.99 <= found.upper
    assert found.limiting in limiting


def test_the_step_up_to_it_lowers_the_loss(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    problem = make_problem(perceptron, classification)
    line, found = crossing_of(problem)
    before = [parameter.detach().clone() for parameter in perceptron.parameters()]
    assert found.eta is not None
    for factor in (0.25, 0.5, 1.0):
        optimizer = torch.optim.SGD(perceptron.parameters(), lr=factor * found.eta * line.learning_rate)
        optimizer.zero_grad()
        nn.functional.cross_entropy(perceptron(classification["x"]), classification["y"]).backward()
        optimizer.step()
        moved = max(
            float((now - then).norm() / then.norm())
            for now, then in zip(perceptron.parameters(), before, strict=True)
            if now.dim() > 1
        )
        assert moved == pytest.approx(factor * found.eta, rel=1e-4)
        with torch.no_grad():
            assert nn.functional.cross_entropy(perceptron(classification["x"]), classification["y"]) < problem.base.loss
            for parameter, value in zip(perceptron.parameters(), before, strict=True):
                parameter.copy_(value)


def test_the_slope_is_the_curves_own(make_problem: Maker, classification: Data) -> None:
    problem = make_problem(smooth().double(), {"x": classification["x"].double(), "y": classification["y"]})
    line, found = crossing_of(problem)
    ray = measure_ray(problem, line.direction, [1e-6])
    assert found.products is not None
    for move in line.direction.moves:
        assert found.products[move.tensor.name] == pytest.approx(ray.changes[move.tensor.name][0] / 1e-6, rel=1e-3)


def test_every_tensor_has_its_own_place_as_far_as_it_shows(make_problem: Maker, classification: Data) -> None:
    problem = make_problem(smooth(), classification)
    line, found = crossing_of(problem)
    trusts = {move.tensor.name: found.trust(move.tensor.name, move.gradient_norm) for move in line.direction.moves}
    assert found.limiting is not None and found.eta is not None and found.upper is not None
    assert found.eta <= (trusts[found.limiting].eta or 0.0) <= found.upper
    assert {point.relation for point in trusts.values()} <= {"crossing", "above-grid"}


@pytest.mark.parametrize(("level", "criterion"), [(1.0, "layers"), (0.0, "sum")])
def test_a_layer_that_ascends_is_taken_together_with_others(
    make_problem: Maker, perceptron: nn.Module, classification: Data, level: float, criterion: str
) -> None:
    problem = make_problem(perceptron, classification)
    line = line_of(problem, "sgd")
    others = {name: cosine * (1.0 if "weight" in name else level) for name, cosine in line.cosines.items()}
    found = find_crossing(problem, line.direction, {**others, "0.weight": -0.1})
    assert (found.criterion, found.certificate.uncertain, found.relation) == (criterion, ("0.weight",), "crossing")
    assert found.eta is not None and found.eta < (crossing_of(problem)[1].eta or 0.0)
    tensors = [move.tensor for move in line.direction.moves]
    with problem.displaced(tensors) as origin:
        line.direction.write(origin, found.eta)
        assert problem.value() < problem.base.loss


def test_the_sum_is_certain_further_and_still_true(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    line, layers = crossing_of(problem, "fromage")
    before = problem.evaluations.gradients
    whole = find_sum_crossing(problem, layers)
    assert problem.evaluations.gradients - before <= 6
    assert whole.criterion == "sum" and whole.closed
    assert layers.eta is not None and whole.eta is not None and whole.eta >= layers.eta
    assert set(layers.etas) <= set(whole.etas)
    for eta, sign in ((whole.eta, -1), (whole.upper or 0.0, 1)):
        ray = measure_ray(problem, line.direction, [eta])
        moves = line.direction.moves
        lost = sum(move.step_norm * ray.changes[move.tensor.name][0] for move in moves)
        kept = sum(move.step_norm * move.gradient_norm * move.cosine for move in moves)
        assert sign * (lost - kept) >= 0.0
    assert measure_ray(problem, line.direction, [whole.eta]).losses[0] < problem.base.loss


def test_a_step_that_ascends_on_the_whole_is_certain_nowhere(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    line = line_of(problem, "sgd")
    found = find_crossing(problem, line.direction, dict.fromkeys(line.cosines, -0.5))
    assert (found.relation, found.eta, found.etas) == ("uncertifiable", None, ())


def test_a_gradient_of_rounding_errors_has_no_say(make_problem: Maker, classification: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    _, found = crossing_of(make_problem(model, classification))
    assert found.certificate.noise == {"0.bias"}
    assert found.limiting != "0.bias" and found.relation == "crossing"


def test_a_loss_that_is_linear_is_certain_as_far_as_it_is_looked_at(make_problem: Maker) -> None:
    class Falling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sum()

    problem = make_problem(Falling(4, 1, bias=False), {"x": torch.ones(3, 4)}, loss="output")
    _, found = crossing_of(problem)
    assert (found.relation, found.eta, found.upper) == ("above-grid", 1.0, None)


def test_without_a_second_derivative_the_search_starts_elsewhere(
    make_problem: Maker, classification: Data, tanh_once: nn.Module
) -> None:
    torch.manual_seed(1)
    layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)]
    smooth, rough = (
        make_problem(nn.Sequential(layers[0], middle, layers[2]), classification) for middle in (layers[1], tanh_once)
    )
    with_slope, without = crossing_of(smooth)[1], crossing_of(rough)[1]
    assert without.products is None and without.closed
    assert without.eta == pytest.approx(with_slope.eta, rel=0.06)
    assert equivalents(rough) <= 11


def test_a_limit_keeps_what_was_found_and_puts_the_weights_back(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification, budget=Budget(seconds=3600))
    line = line_of(problem, "sgd")
    before = [parameter.detach().clone() for parameter in perceptron.parameters()]
    calls = []

    def advance() -> None:
        calls.append(1)
        if len(calls) == 4:
            problem.budget.seconds = 0.0

    found = find_crossing(problem, line.direction, line.cosines, advance)
    assert found.stopped is not None and len(found.etas) == 2 and not found.closed
    assert all(torch.equal(now, then) for now, then in zip(perceptron.parameters(), before, strict=True))


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is the opposite."""

    @staticmethod
    def forward(context: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


class Reversing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Reversed.apply(x)  # type: ignore[no-untyped-call, no-any-return]


def test_a_gradient_that_is_not_the_losses_own_is_noticed(make_problem: Maker, classification: Data) -> None:
    problem = make_problem(smooth(), classification)
    found = crossing_of(problem)[1]
    assert not found.slope_check(problem.base.loss).contradicted
    other = make_problem(nn.Sequential(smooth(), Reversing()), classification)
    wrong = crossing_of(other)[1]
    assert wrong.eta is not None and wrong.losses[0] > other.base.loss
    check = wrong.slope_check(other.base.loss)
    assert check.contradicted and check.measured == pytest.approx(-check.expected, rel=0.05)


class Branches(nn.Module):
    """A trunk under two heads, one of which sends its gradient back reversed, or through `between`."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3), nn.Linear(16, 2)
        self.between = between

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.trunk(x))
        domain = torch.arange(len(x), device=x.device) % 2
        other = nn.functional.cross_entropy(self.second(self.between(hidden)), domain)
        return nn.functional.cross_entropy(self.first(hidden), y) + 20.0 * other


class SignStraightThrough(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x.sign() - x).detach()


@pytest.mark.parametrize("name", ["sgd", "fromage", "adamw"])
def test_a_branch_whose_gradient_is_reversed_is_noticed_close_to_the_start(
    make_problem: Maker, classification: Data, name: str
) -> None:
    problem = make_problem(Branches(Reversing()), classification, loss="output")
    line, found = crossing_of(problem, name)
    check = found.slope_check(problem.base.loss)
    assert check.contradicted and check.eta == found.etas[0] and found.etas[1] == 2.0 * found.etas[0]
    assert check.measured == pytest.approx(true_slope(problem, line, found.etas[0] / 4.0), rel=0.1)
    own = make_problem(Branches(nn.Identity()), classification, loss="output")
    assert not crossing_of(own, name)[1].slope_check(own.base.loss).contradicted


def test_a_straight_through_estimator_is_noticed_close_to_the_start(make_problem: Maker, classification: Data) -> None:
    problem = make_problem(Branches(SignStraightThrough()), classification, loss="output")
    found = crossing_of(problem, "fromage")[1]
    assert found.slope_check(problem.base.loss).contradicted


def true_slope(problem: Problem, line: StepLine, eta: float) -> float:
    values = []
    with problem.displaced([move.tensor for move in line.direction.moves]) as origin:
        for side in (-eta, eta):
            line.direction.write(origin, side)
            values.append(problem.value())
    return (values[1] - values[0]) / (2.0 * eta)


def deep(rectified: bool, normalised: bool) -> nn.Module:
    torch.manual_seed(2)
    activation = nn.ReLU if rectified else nn.Tanh
    layers: list[nn.Module] = []
    for _ in range(12):
        layers += [nn.Linear(8, 8), nn.BatchNorm1d(8) if normalised else nn.Identity(), activation()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


@pytest.mark.parametrize("name", ["sgd", "fromage", "adamw"])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_look_close_to_the_start_costs_ordinary_networks_one_forward_pass(
    make_problem: Maker, classification: Data, name: str, rectified: bool, normalised: bool, autocast: bool
) -> None:
    problem = make_problem(deep(rectified, normalised), classification, autocast=autocast)
    line = line_of(problem, name)
    before = problem.evaluations.forwards
    found = find_crossing(problem, line.direction, line.cosines)
    assert problem.evaluations.forwards - before <= 1.0
    assert found.products is not None
    start = 1.0 / found.certificate.excess(found.products)
    assert all(abs(eta / start - 1.0 / 32.0) > 1e-6 for eta in found.etas)
    assert not found.slope_check(problem.base.loss).contradicted


def test_the_look_close_takes_place_without_a_second_derivative(
    make_problem: Maker, classification: Data, tanh_once: nn.Module
) -> None:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(8, 16), tanh_once, nn.Linear(16, 3))
    problem = make_problem(nn.Sequential(layers, Reversing()), classification)
    found = crossing_of(problem)[1]
    assert found.products is None and found.slope_check(problem.base.loss).contradicted
    assert found.etas[0] == pytest.approx(3e-3 / 32.0)
