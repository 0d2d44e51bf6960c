import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.optim import LARS, Fromage
from fromage_cli.probes.lines.direction import Skipped, measured_move, moving_tensors
from fromage_cli.probes.lines.updates import adam_direction, fromage_direction
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def test_the_step_is_that_of_the_optimizer_without_prefactor(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    tensors, _ = moving_tensors(problem, "all")
    direction = fromage_direction(problem, tensors)
    before = {name: value.clone() for name, value in perceptron.named_parameters()}
    with problem.displaced(tensors) as origin:
        direction.write(origin, 0.03)
        moved = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    optimizer = LARS(perceptron.parameters(), lr=0.03)
    nn.functional.cross_entropy(perceptron(classification["x"]), classification["y"]).backward()
    optimizer.step()
    for name, value in perceptron.named_parameters():
        torch.testing.assert_close(moved[name], value.detach())
        assert float((moved[name] - before[name]).detach().norm() / before[name].detach().norm()) == pytest.approx(
            0.03, rel=1e-4
        )


def test_the_vector_is_the_derivative_of_the_step(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron.double(), {**classification, "x": classification["x"].double()})
    tensors, _ = moving_tensors(problem, "matrices")
    direction = fromage_direction(problem, tensors)
    with problem.displaced(tensors) as origin:
        direction.write(origin, 0.5)
        for name, vector in direction.vector().items():
            moved = dict(perceptron.named_parameters())[name].detach()
            torch.testing.assert_close(moved - origin[name], 0.5 * vector)


def test_zero_weights_stand_still_beside_others_and_zero_gradients_always(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        perceptron[2].weight.zero_()
        perceptron[2].bias.fill_(1.0)  # the units above still have something to read
    problem = make_problem(perceptron, classification)
    direction = fromage_direction(problem, moving_tensors(problem, "matrices")[0])
    assert [move.tensor.name for move in direction.moves] == ["4.weight"]
    assert direction.skipped == (Skipped("0.weight", "zero gradient"), Skipped("2.weight", "zero weights"))


def test_a_head_of_zeros_alone_moves_by_its_gradient_as_fromage_moves_it(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        perceptron[4].weight.zero_()  # so nothing below receives a gradient
    problem = make_problem(perceptron, classification)
    tensors = moving_tensors(problem, "matrices")[0]
    direction = fromage_direction(problem, tensors)
    assert direction.skipped == (Skipped("0.weight", "zero gradient"), Skipped("2.weight", "zero gradient"))
    assert direction.without_size == ("4.weight",)
    size = sum(float(tensor.parameter.detach().square().sum()) for tensor in tensors) ** 0.5
    with problem.displaced(tensors) as origin:
        direction.write(origin, 0.03)
        step = perceptron[4].weight.detach().clone()
    assert float(step.norm()) == pytest.approx(0.03 * size, rel=1e-5)
    optimizer = Fromage([perceptron[4].weight], lr=0.03)
    nn.functional.cross_entropy(perceptron(classification["x"]), classification["y"]).backward()
    optimizer.step()
    assert (
        torch.nn.functional.cosine_similarity(step.flatten(), perceptron[4].weight.detach().flatten(), dim=0) > 0.9999
    )


def test_what_stands_still_is_named_with_its_reason(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    perceptron[0].bias.requires_grad_(False)
    problem = make_problem(perceptron, classification)
    moving, skipped = moving_tensors(problem, "matrices", exclude=["4.*"])
    assert [tensor.name for tensor in moving] == ["0.weight", "2.weight"]
    assert skipped == [
        Skipped("0.bias", "frozen"),
        Skipped("4.weight", "excluded"),
        Skipped("4.bias", "excluded"),
    ]


@pytest.mark.parametrize(
    ("tensors", "include", "words"),
    [("all", ["nothing.*"], "No tensor matches"), ("matrices", ["*.bias"], "fewer than two")],
)
def test_an_empty_choice_is_refused(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    tensors: str,
    include: list[str],
    words: str,
) -> None:
    with pytest.raises(MismatchError, match=words):
        moving_tensors(make_problem(perceptron, classification), tensors, include)


@pytest.mark.parametrize("coefficient", [2.0, -2.0])
def test_the_cosine_is_to_the_negative_gradient(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], coefficient: float
) -> None:
    problem = make_problem(perceptron, classification)
    tensor = problem.trainable[0]
    source = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    gradient = problem.base.gradients["0.weight"].double().flatten()
    move = measured_move(problem, tensor, coefficient, source)
    step = coefficient * source.double().flatten()
    assert move.step_norm == pytest.approx(float(step.norm()))
    assert move.cosine == pytest.approx(float(-(gradient @ step) / (gradient.norm() * step.norm())))


def test_a_step_that_is_not_finite_is_refused_by_name(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    updates = {tensor.name: torch.ones_like(tensor.parameter) for tensor in problem.receiving}
    updates["2.weight"][0, 0] = math.nan
    with pytest.raises(NumericalError, match=r"The step of '2\.weight' is not finite") as caught:
        adam_direction(problem, problem.receiving, updates, ())
    assert "negative second moment" in caught.value.hint
