from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.missing import found_of
from fromage_cli.probes.lines import ray
from fromage_cli.probes.lines.direction import moving_tensors
from fromage_cli.probes.lines.ray import gradient_changes, measure_ray, product_norms
from fromage_cli.probes.lines.updates import adam_direction, fromage_direction, random_direction, sgd_direction
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.evaluation.problem import Problem
from tests.problem.evaluation.hessian_product import hessian_vector_product

Maker = Callable[..., Problem]


def test_losses_and_changes_are_those_of_the_moved_network(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    direction = fromage_direction(problem, moving_tensors(problem, "matrices")[0])
    ray = measure_ray(problem, direction, [0.01, 0.1])
    base = problem.base.gradients
    for index, eta in enumerate(ray.etas):
        moved = {name: value.detach().double() for name, value in perceptron.named_parameters()}
        for name, gradient in base.items():
            if gradient.dim() == 2:
                moved[name] = moved[name] - eta * gradient.double() * moved[name].norm() / gradient.double().norm()
        moved = {name: value.requires_grad_() for name, value in moved.items()}
        outputs = torch.func.functional_call(perceptron, moved, (classification["x"].double(),))
        loss = nn.functional.cross_entropy(outputs, classification["y"])
        loss.backward()
        assert ray.losses[index] == pytest.approx(float(loss.detach()), rel=1e-5)
        for name, changes in ray.changes.items():
            exact = float((moved[name].grad - base[name].double()).norm())
            assert changes[index] == pytest.approx(exact, rel=1e-3)


def test_the_grid_costs_one_gradient_a_point_and_one_for_the_floor(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    direction = fromage_direction(problem, moving_tensors(problem, "matrices")[0])
    steps: list[None] = []
    ray = measure_ray(problem, direction, [0.01, 0.1, 1.0], lambda: steps.append(None))
    assert problem.evaluations.gradients == 1 + 1 + 3
    assert len(steps) == 4
    assert all(ray.floors[m.tensor.name] < 1e-5 * m.gradient_norm for m in direction.moves)


def test_weights_are_as_before_when_a_limit_ends_the_measurement(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    direction = fromage_direction(problem, moving_tensors(problem, "matrices")[0])
    before = perceptron[0].weight.detach().clone()

    class Clock(Budget):
        def check(self) -> None:
            if problem.evaluations.gradients >= 4:
                Budget(seconds=-1.0).check()

    problem.budget = Clock()
    ray, limit = found_of(measure_ray(problem, direction, [0.01, 0.1, 1.0]))
    assert ray.etas == [0.01, 0.1]
    assert limit is not None
    assert torch.equal(perceptron[0].weight, before)


def test_a_tensor_that_loses_its_gradient_has_changed_by_all_of_it(make_problem: Maker) -> None:
    class Gate(nn.Module):
        """Uses its weight only while it is below 1.05."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1))
            self.other = nn.Parameter(torch.ones(1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gated = -(x * self.weight).sum() if float(self.weight.detach()) < 1.05 else 0.0
            return gated - (x * self.other).sum()

    problem = make_problem(Gate(), {"x": torch.ones(2, 1)}, "output")
    direction = fromage_direction(problem, moving_tensors(problem, "all")[0])
    ray = measure_ray(problem, direction, [0.01, 0.1])
    assert ray.changes["weight"] == [0.0, direction.moves[0].gradient_norm]


@pytest.mark.parametrize("mode", ["train", "auto"])
def test_rounding_shows_itself_where_rows_cannot_be_reversed(make_problem: Maker, mode: str) -> None:
    """Layer normalisation takes the mean away, so the gradient of the bias's mean before it is rounding alone."""

    class Ordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shift = nn.Linear(8, 12), nn.Parameter(torch.ones(1))
            self.drop, self.output = nn.Dropout(0.2), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = nn.functional.layer_norm(self.first(x) + self.shift, (12,))
            hidden = hidden * torch.linspace(0.5, 1.5, len(x))[:, None]  # rows count according to their place
            return self.output(self.drop(hidden))

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(7)
    rows = {"x": torch.randn(20, 8, generator=generator), "y": torch.randint(3, (20,), generator=generator)}
    problem = make_problem(Ordered(), rows, mode=mode)
    direction = fromage_direction(problem, moving_tensors(problem, "all")[0])
    before = {name: value.clone() for name, value in problem.model.state_dict().items()}
    ray = measure_ray(problem, direction, [0.01])
    sizes = {move.tensor.name: move.gradient_norm for move in direction.moves}
    assert ray.floors["shift"] > 0.1 * sizes["shift"]
    assert 0.0 < ray.floors["first.weight"] < 1e-4 * sizes["first.weight"]
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())


@pytest.mark.parametrize(("largest", "held"), [(0, 0), (1 << 16, 0), (1 << 16, 40), (1 << 16, 1 << 20)])
def test_changes_do_not_depend_on_how_many_gradients_are_gathered(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    largest: int,
    held: int,
) -> None:
    problem = make_problem(perceptron, classification)
    direction = fromage_direction(problem, moving_tensors(problem, "all")[0])
    monkeypatch.setattr(ray, "CHUNK", largest)
    monkeypatch.setattr(ray, "GATHERED", held)
    with problem.displaced([move.tensor for move in direction.moves]) as origin:
        direction.write(origin, 0.1)
        changes = gradient_changes(problem, direction, problem.base.gradients)[1]
        gradients: dict[str, torch.Tensor] = {}
        problem.visit_gradient(lambda tensor, gradient: gradients.__setitem__(tensor.name, gradient))
    exact = {m.tensor.name: gradients[m.tensor.name] - problem.base.gradients[m.tensor.name] for m in direction.moves}
    assert changes == pytest.approx({name: float(value.double().norm()) for name, value in exact.items()}, rel=1e-12)


@pytest.mark.parametrize("name", ["fromage", "sgd", "adam", "random"])
@pytest.mark.parametrize("micro_batch", [None, 8])
def test_a_last_product_is_that_of_the_direction_and_lets_go_of_what_nobody_asks_for(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    name: str,
    micro_batch: int | None,
) -> None:
    problem = make_problem(perceptron.double(), doubled(classification), micro_batch=micro_batch)
    tensors = moving_tensors(problem, "all")[0]
    if name == "adam":
        updates = {tensor.name: problem.base.gradients[tensor.name].sign() for tensor in tensors}
        direction = adam_direction(problem, tensors, updates, ())
    elif name == "random":
        direction = random_direction(problem, tensors, 0)
    else:
        direction = {"fromage": fromage_direction, "sgd": sgd_direction}[name](problem, tensors)
    exact = hessian_vector_product(problem, direction.vector())
    gradients, base = dict(problem.base.gradients), problem.base
    kept = product_norms(problem, direction)
    assert kept == pytest.approx({name: float(product.norm()) for name, product in exact.items()}, rel=1e-10)
    assert problem.base is base

    made = problem.evaluations.gradients
    assert product_norms(problem, direction, last=True) == pytest.approx(kept, rel=1e-10)
    let_go = name in ("adam", "random") or micro_batch is None
    assert (len(base.gradients) == 0) == let_go
    assert [tensor.name for tensor in problem.receiving] == list(gradients)
    assert problem.evaluations.gradients == made
    assert all(torch.equal(problem.base.gradients[name], gradient) for name, gradient in gradients.items())
    assert problem.evaluations.gradients == made + let_go


def doubled(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.double() if value.is_floating_point() else value for key, value in data.items()}


def test_a_loss_with_one_derivative_has_no_products(make_problem: Maker, tanh_once: nn.Module) -> None:
    problem = make_problem(nn.Sequential(nn.Linear(2, 2), tanh_once), {"x": torch.ones(3, 2), "y": torch.zeros(3, 2)})
    direction = sgd_direction(problem, problem.receiving)
    assert product_norms(problem, direction, last=True) is None
