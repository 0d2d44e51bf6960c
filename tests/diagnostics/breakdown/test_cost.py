from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.breakdown.cost import estimate, expected_work, gradient_count, weight_copies
from fromage_cli.diagnostics.breakdown.direction_option import make_direction
from fromage_cli.diagnostics.breakdown.measure import measure, measure_batches
from fromage_cli.optimizers.settings import Given
from fromage_cli.probes.cost import gradients
from fromage_cli.probes.lines.direction import moving_tensors
from fromage_cli.probes.lines.draws import measure_draw_spread
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


@pytest.mark.parametrize("name", ["fromage", "sgd", "adam", "random"])
@pytest.mark.parametrize("several", [False, True], ids=["one batch", "two batches"])
@pytest.mark.parametrize("reload", [False, True], ids=["copies", "reload"])
def test_the_gradients_counted_beforehand_are_those_that_are_taken(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    name: str,
    several: bool,
    reload: bool,
) -> None:
    problem = make_problem(perceptron, {key: value[:21] for key, value in classification.items()})
    if reload:
        stored = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
        problem.saved = lambda tensor: stored[tensor.name]
    if several:
        problem.further = (as_batch({key: value[21:] for key, value in classification.items()}, "the rest"),)
    expected, work = gradient_count(name, 2, problem, None), expected_work(problem, name, 2, None)
    problem.require_steadiness()
    tensors = moving_tensors(problem, "matrices")[0]
    said: list[str] = []
    line = make_direction(name, problem, tensors, None, Given())
    measure(problem, line, (0.01, 0.1), advance=lambda: said.append(problem.evaluations.doing))
    assert said == ["how much rounding alone changes", "step 1 of 2", "step 2 of 2"]
    if several:
        measure_batches(problem, lambda alone: make_direction(name, alone, tensors, None, Given()), (0.01, 0.1))
        assert problem.evaluations.doing == "batch 2 of 2 alone"
    assert problem.evaluations.gradients == pytest.approx(expected)
    assert 0.8 * work <= gradients(problem.evaluations) <= work


@pytest.mark.parametrize(
    ("name", "reload", "several", "copies"),
    [
        ("fromage", False, False, 2),
        ("random", True, False, 1),
        ("adam", False, False, 3),
        ("adam", True, False, 2),
        ("to:there.pt", False, False, 3),
        ("to:there.pt", True, False, 2),
        ("sgd", False, True, 2),
        ("adam", False, True, 4),
        ("random", True, True, 2),
    ],
)
def test_copies_of_the_weights_are_counted(name: str, reload: bool, several: bool, copies: int) -> None:
    assert weight_copies(name, reload, several, None) == pytest.approx(copies + 0.1)


def test_other_draws_are_counted_where_the_network_draws_noise(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    dropping = nn.Sequential(nn.Dropout(0.2), perceptron)
    told = estimate(make_problem(dropping, classification, mode="train"), "fromage", 9, False, None).gradients
    problem = make_problem(dropping, classification, mode="train")
    line = make_direction("fromage", problem, moving_tensors(problem, "matrices")[0], None, Given())
    measure(problem, line, tuple(0.01 * 1.1**power for power in range(9)))
    measure_draw_spread(problem)
    assert told == pytest.approx(problem.evaluations.gradients + 1.0 / 3.0)
