import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError
from fromage_cli.probes.curvature.batch_sharpness import training_batches
from fromage_cli.probes.curvature.critical_sharpness import critical_sharpness_error
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms

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
    once = regression(make_problem, 0, rows=4)
    twice = make_problem(once.model, {name: torch.cat([rows, rows]) for name, rows in once.batch.data.items()})
    step = {"weight": twice.base.gradients["weight"]}
    rate = critical_rate(twice, step, 0.1)
    assert rate is not None
    assert critical_sharpness_error(twice, step, rate, [twice.batch.rows(0, 4), twice.batch.rows(4, 8)]) == 0.0
    problem = regression(make_problem, 0, rows=8)
    step = {"weight": problem.base.gradients["weight"]}
    rate = critical_rate(problem, step, 0.1)
    assert rate is not None
    halves = [problem.batch.rows(0, 4), problem.batch.rows(4, 8)]
    alone = critical_sharpness_error(problem, step, rate, halves)
    often = critical_sharpness_error(problem, step, rate, 8 * halves)
    assert alone is not None and often is not None and alone > 0.0
    assert often / alone == pytest.approx(math.sqrt(2 / 15.0 / 2.0), rel=0.05)


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


def test_parts_of_a_loss_of_rows_together_are_no_samples(make_problem: Maker) -> None:
    class Spread:
        name = "spread"

        def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
            return LossTerms(model(batch.data["x"]).sub(batch.data["y"]).mean().square(), 1.0)

    problem = replace(regression(make_problem, 2), loss=Spread())
    step = {"weight": problem.base.gradients["weight"]}
    with pytest.raises(MismatchError, match="the loss is not a mean over rows"):
        critical_sharpness_error(problem, step, 0.1, training_batches(problem, 2))


def test_one_part_and_a_loss_that_does_not_rise_have_none(make_problem: Maker) -> None:
    problem = regression(make_problem, 2)
    step = {"weight": problem.base.gradients["weight"]}
    assert critical_sharpness_error(problem, step, 0.1, [problem.batch]) is None
    assert critical_sharpness_error(problem, step, 1e-3, training_batches(problem, 16)) is None
    assert critical_sharpness_error(problem, step, 1e200, training_batches(problem, 16)) is None
