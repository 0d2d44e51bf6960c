import math
from collections.abc import Callable
from statistics import fmean, stdev

import pytest
import torch
from torch import nn

from fromage_cli.probes.curvature.batch_sharpness import training_batches
from fromage_cli.probes.curvature.critical import critical_rate
from fromage_cli.probes.curvature.critical_error import critical_sharpness_error
from fromage_cli.problem.problem import Problem

Maker = Callable[..., Problem]


def regression(make_problem: Maker, seed: int, rows: int = 64) -> Problem:
    """Rows of one distribution, always at the same weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator).double()
    y = x.sum(1, keepdim=True) + torch.randn(rows, 1, generator=generator).double()
    model = nn.Linear(4, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return make_problem(model, {"x": x, "y": y})


def test_it_is_the_spread_over_batches_of_the_same_distribution(make_problem: Maker) -> None:
    step = {"weight": torch.full((1, 4), -1.0, dtype=torch.float64)}
    found, errors = [], []
    for seed in range(60):
        problem = regression(make_problem, seed)
        rate = critical_rate(problem, step, 1.0)
        assert rate is not None
        error = critical_sharpness_error(problem, step, rate, training_batches(problem, None))
        assert error is not None
        found.append(2.0 / rate)
        errors.append(error)
    assert fmean(errors) == pytest.approx(stdev(found), rel=0.2)


def test_of_equal_parts_it_is_zero_and_it_shrinks_with_their_number(make_problem: Maker) -> None:
    problem = regression(make_problem, 0, rows=8)
    step = {"weight": problem.base.gradients["weight"]}
    rate = critical_rate(problem, step, 0.1)
    assert rate is not None
    half = problem.batch.rows(0, 4)
    assert critical_sharpness_error(problem, step, rate, [half, half]) == 0.0
    halves = [half, problem.batch.rows(4, 8)]
    once = critical_sharpness_error(problem, step, rate, halves)
    often = critical_sharpness_error(problem, step, rate, 8 * halves)
    assert once is not None and often is not None and once > 0.0
    assert often / once == pytest.approx(math.sqrt(2 / 15.0 / 2.0), rel=0.05)


def test_on_parabolas_it_is_exact(make_problem: Maker) -> None:
    problem = regression(make_problem, 3)
    step = {"weight": problem.base.gradients["weight"]}
    parts = training_batches(problem, None)
    falls, bends = [], []
    for part in parts:
        own = problem.on(part)
        x = part.data["x"]
        falls.append(float((own.base.gradients["weight"] * step["weight"]).sum()))
        bends.append(float((x @ step["weight"].T).square().mean()))
    rate = fmean(falls) / fmean(bends)
    spread = stdev(bend * rate**2 - fall * rate for fall, bend in zip(falls, bends, strict=True))
    expected = 2.0 / rate**2 * spread / math.sqrt(len(parts)) / fmean(falls)
    assert critical_sharpness_error(problem, step, rate, parts) == pytest.approx(expected, rel=1e-9)


def test_it_costs_three_forward_passes_and_leaves_the_weights(make_problem: Maker) -> None:
    problem = regression(make_problem, 1)
    step = {"weight": problem.base.gradients["weight"]}
    rate = critical_rate(problem, step, 0.1)
    assert rate is not None
    before = problem.evaluations.forwards
    critical_sharpness_error(problem, step, rate, training_batches(problem, 16))
    assert problem.evaluations.forwards - before == pytest.approx(3.0)
    assert not problem.trainable[0].parameter.any()


def test_one_part_and_a_loss_that_does_not_rise_have_none(make_problem: Maker) -> None:
    problem = regression(make_problem, 2)
    step = {"weight": problem.base.gradients["weight"]}
    assert critical_sharpness_error(problem, step, 0.1, [problem.batch]) is None
    assert critical_sharpness_error(problem, step, 1e-3, training_batches(problem, 16)) is None
    assert critical_sharpness_error(problem, step, 1e200, training_batches(problem, 16)) is None
