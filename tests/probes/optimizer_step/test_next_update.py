"""Cosines and lengths of the steps of training batches, against many steps of torch's own optimizer."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from fromage_cli.missing import Missing
from fromage_cli.optim import LAMB, LARS
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.probes.optimizer_step.next_update import next_update, on_rows
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
Make = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
ROWS = 256


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(ROWS, 8)
    return {"x": x, "y": (x @ torch.randn(8, 3) + torch.randn(ROWS, 3)).argmax(1)}


@pytest.fixture
def problem(make_problem: Maker, data: dict[str, torch.Tensor]) -> Problem:
    torch.manual_seed(1)
    return make_problem(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), data)


def gradients_of_rows(model: nn.Module, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """[rows, …] by tensor name."""

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(model, weights, (x[None],))
        return nn.functional.cross_entropy(output, y[None])

    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found: dict[str, torch.Tensor] = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, data["x"], data["y"])
    return found


def simulated(gradients: torch.Tensor, weight: torch.Tensor, size: int, make: Make) -> tuple[float, float]:
    """E<u, g> / (||g|| sqrt(E||u||^2)) and sqrt(E||u||^2) over steps with random batches at weights that stay."""
    generator = torch.Generator().manual_seed(1)
    parameter, mean, rate = nn.Parameter(weight.clone()), gradients.mean(0), 1e-2
    optimizer = make([parameter], rate)
    along, squares, steps = 0.0, 0.0, 500
    for step in range(-200, steps):
        parameter.grad = gradients[torch.randint(ROWS, (size,), generator=generator)].mean(0)
        optimizer.step()
        update = (weight - parameter.detach()) / rate
        parameter.data.copy_(weight)
        if step >= 0:
            along += float((update * mean).sum()) / steps
            squares += float(update.square().sum()) / steps
    return along / float(mean.norm()) / squares**0.5, squares**0.5


RULES: list[tuple[Optimizer, Make, int]] = [
    (Optimizer("sgd"), SGD, 4),
    (Optimizer("sgd"), SGD, 64),
    (Optimizer("sgd", momentum=0.9), lambda w, rate: SGD(w, rate, 0.9), 4),
    (Optimizer("sgd", momentum=0.8, dampening=0.5), lambda w, rate: SGD(w, rate, 0.8, 0.5), 16),
    (Optimizer("sgd", momentum=0.8, nesterov=True), lambda w, rate: SGD(w, rate, 0.8, nesterov=True), 4),
    (Optimizer("adamw", betas=(0.9, 0.98)), lambda w, rate: AdamW(w, rate, (0.9, 0.98), weight_decay=0.0), 4),
    (Optimizer("adam", betas=(0.5, 0.98)), lambda w, rate: Adam(w, rate, (0.5, 0.98)), 4),
    (Optimizer("lars", momentum=0.9), lambda w, rate: LARS(w, rate, momentum=0.9), 4),
    (Optimizer("lamb", betas=(0.9, 0.98)), lambda w, rate: LAMB(w, rate, betas=(0.9, 0.98)), 4),
]


@pytest.mark.parametrize(("rule", "make", "size"), RULES)
def test_a_step_has_the_cosine_and_length_of_training_batches(
    problem: Problem, data: dict[str, torch.Tensor], rule: Optimizer, make: Make, size: int
) -> None:
    found = next_update(MatchedState(problem, rule), problem.receiving, batch_size=size, chunks=32)
    name = "0.weight"
    weight = next(tensor.parameter for tensor in problem.receiving if tensor.name == name).detach()
    cosine, length = simulated(gradients_of_rows(problem.model, data)[name], weight, size, make)
    stderr = found.cosines[name].stderr
    assert stderr is None or stderr < 0.1
    assert found.cosines[name].value == pytest.approx(cosine, rel=0.05, abs=0.05)
    assert found.relative_steps[name] * float(weight.norm()) == pytest.approx(
        length, rel=0.08 if rule.name == "lars" else 0.05
    )
    assert found.levels[name] == pytest.approx(found.cosines[name].value)
    assert found.sampled and found.filled == (rule.momentum > 0.0)


def test_a_batch_larger_than_the_rows_keeps_the_length_of_its_own_noise(problem: Problem) -> None:
    few = problem.on(problem.batch.rows(0, 16))
    whole = next_update(MatchedState(problem, Optimizer("sgd")), problem.receiving)
    found = next_update(MatchedState(few, Optimizer("sgd")), few.receiving, batch_size=10**6)
    assert not isinstance(found.noise, Missing)
    for name, relative in found.relative_steps.items():
        assert 0.0 < relative <= found.line.relative_steps[name]
        assert relative > 0.5 * whole.relative_steps[name]
        weight = next(tensor.parameter for tensor in few.receiving if tensor.name == name)
        assert relative >= (found.noise.moments(name).variance / 10**6) ** 0.5 / float(weight.detach().norm()) * 0.999


@pytest.mark.parametrize("seed", range(4))
def test_under_batch_statistics_adams_step_from_half_of_the_rows_descends_on_the_other(
    make_problem: Maker, data: dict[str, torch.Tensor], seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    problem = make_problem(model, data)
    rule = Optimizer("adamw")
    update = next_update(MatchedState(problem, rule), problem.receiving)
    own, other = problem.on(problem.batch.rows(0, 128)), problem.on(problem.batch.rows(128, 256))
    step = on_rows(update, own)
    assert isinstance(update.noise, Missing) and "cannot be split into batches" in update.step.note
    moved = {tensor.name: step.moved(tensor) for tensor in problem.receiving}
    descent = sum(float((part * other.base.gradients[name]).sum()) for name, part in moved.items())
    largest = max(float(part.abs().max()) for part in moved.values())
    assert descent > 0.0 and largest == pytest.approx(1.0, rel=1e-3)
