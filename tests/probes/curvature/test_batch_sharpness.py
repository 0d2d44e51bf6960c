import math
from collections.abc import Callable
from statistics import mean, stdev

import pytest
import torch
from torch import nn

from fromage_cli.errors import NumericalError
from fromage_cli.probes.curvature.batch_sharpness import gradient_curvature, training_batches
from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


@pytest.fixture
def problem(make_problem: Maker) -> Problem:
    torch.manual_seed(0)
    data = {"x": torch.randn(22, 5).double(), "y": torch.randn(22, 1).double()}
    return make_problem(nn.Linear(5, 1, bias=False).double(), data)


def test_it_is_the_mean_curvature_along_the_gradients(problem: Problem) -> None:
    values = []
    parts = training_batches(problem, 5)
    for part in parts:
        x, y = part.data["x"], part.data["y"]
        matrix = 2.0 / len(x) * x.T @ x
        gradient = 2.0 / len(x) * (x.T @ (x @ problem.trainable[0].parameter.detach().T - y)).reshape(-1)
        values.append(float(gradient @ matrix @ gradient / (gradient @ gradient)))
    found = gradient_curvature(problem, WeightSpace(problem.receiving), parts)
    assert found is not None
    assert (found.batches, found.batch_size) == (4, 5)
    assert found.mean == pytest.approx(mean(values))
    assert found.stderr == pytest.approx(stdev(values) / math.sqrt(4))
    assert problem.evaluations.hessian_vector_products == pytest.approx(20 / 22)


def test_a_single_batch_is_cut_in_eighths_and_several_stay_as_they_are(problem: Problem) -> None:
    assert [part.size for part in training_batches(problem, None)] == [2] * 11
    assert [part.size for part in training_batches(problem, 10)] == [10, 10]
    several = problem.on(problem.batch.rows(0, 12), problem.batch.rows(12, 22))
    assert [part.size for part in training_batches(several, None)] == [12, 10]
    assert [part.size for part in training_batches(several, 6)] == [6, 6, 6]


def test_one_batch_has_no_spread(problem: Problem) -> None:
    assert gradient_curvature(problem, WeightSpace(problem.receiving), training_batches(problem, 20)) is None


def test_a_small_batch_without_finite_curvature_is_told(problem: Problem) -> None:
    space, parts = WeightSpace(problem.receiving), training_batches(problem, 10)
    parts[1].data["x"].mul_(math.inf)
    with pytest.raises(NumericalError, match="small batch is not finite"):
        gradient_curvature(problem, space, parts)
