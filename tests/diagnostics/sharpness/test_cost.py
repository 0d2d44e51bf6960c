from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.sharpness.cost import TYPICAL_PRODUCTS, Request, estimate, expected_products, expected_work
from fromage_cli.diagnostics.sharpness.measure import measure
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.cost import gradients
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


@pytest.fixture
def problem(make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]) -> Problem:
    return make_problem(perceptron, classification)


@pytest.mark.parametrize(
    ("asked", "operators", "others"),
    [
        (Request(), 2, 2),
        (Request(count=3), 4, 2),
        (Request(blocks=True), 5, 2),
        (Request(simulated_steps=7), 2, 23),
    ],
)
def test_every_part_counts(problem: Problem, asked: Request, operators: int, others: int) -> None:
    found = expected_products(problem, problem.receiving, Optimizer("sgd", 0.1), asked)
    assert found == TYPICAL_PRODUCTS * operators + others


def test_what_is_not_measured_costs_nothing(problem: Problem) -> None:
    request = Request(simulated_steps=7)
    assert expected_products(problem, problem.receiving, Optimizer(), request) == 2 * TYPICAL_PRODUCTS
    assert expected_products(problem, problem.receiving, Optimizer("sgd"), request) == 2 * TYPICAL_PRODUCTS + 2
    assert expected_products(problem, problem.receiving, Optimizer("adam", 0.1), Request()) == 3 * TYPICAL_PRODUCTS + 2


def test_the_expectation_is_near_what_is_counted(problem: Problem) -> None:
    optimizer, request = Optimizer("sgd", 0.1), Request(simulated_steps=5)
    expected = expected_products(problem, problem.receiving, optimizer, request)
    measure(problem, problem.receiving, optimizer, None, request=request)
    assert problem.evaluations.hessian_vector_products == pytest.approx(expected, rel=0.4)


def test_the_bar_counts_what_is_computed_and_names_it(problem: Problem) -> None:
    optimizer, request = Optimizer("adam", 0.1), Request(batch_rows=8, simulated_steps=5, blocks=True)
    told, said = expected_work(problem, problem.receiving, optimizer, request), []
    measure(
        problem,
        problem.receiving,
        optimizer,
        None,
        request=request,
        advance=lambda: said.append(problem.evaluations.doing),
    )
    assert 0.5 * told <= gradients(problem.evaluations) <= 1.5 * told
    parts = dict.fromkeys(words.partition(",")[0] for words in said)
    assert list(parts) == [
        "largest curvature",
        "Gauss-Newton curvature",
        "curvature preconditioned by adam",
        "curvature of 0.weight",
        "curvature of 2.weight",
        "curvature of 4.weight",
        "how far the quadratic model holds",
        "5 steps of training in the quadratic model",
    ]
    assert said[:2] == ["largest curvature, product 1", "largest curvature, product 2"]


def test_more_steps_are_dearer(problem: Problem) -> None:
    optimizer = Optimizer("sgd", 0.1)
    fewer = estimate(problem, problem.receiving, optimizer, Request())
    more = estimate(problem, problem.receiving, optimizer, replace(Request(), simulated_steps=500))
    assert more.gradients > 3 * fewer.gradients
    assert more.seconds is not None and fewer.seconds is not None and more.seconds > fewer.seconds
