from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step.minibatches import (
    batches_of,
    minibatches,
    require_mean,
    require_samples,
    visit_minibatches,
)
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
DATA = {"x": torch.arange(10.0)[:, None], "y": torch.zeros(10, 1)}


def linear() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model


@pytest.mark.parametrize(
    ("count", "rows"), [(2, [(0, 5), (5, 10)]), (3, [(0, 3), (3, 6), (6, 9)]), (10, [(i, i + 1) for i in range(10)])]
)
def test_parts_are_equal_and_disjoint(make_problem: Maker, count: int, rows: list[tuple[int, int]]) -> None:
    parts = minibatches(make_problem(linear(), DATA), count)
    assert [part.data["x"].flatten().tolist() for part in parts] == [
        [float(i) for i in range(*bounds)] for bounds in rows
    ]


def test_one_part_and_batch_statistics_give_none(make_problem: Maker) -> None:
    assert minibatches(make_problem(linear(), DATA), 1) == []
    normalised = nn.Sequential(nn.BatchNorm1d(1), linear())
    assert minibatches(make_problem(normalised.train(), DATA, mode="train"), 2) == []


def test_batches_of_so_many_rows_leave_the_rest_out(make_problem: Maker) -> None:
    found = batches_of(make_problem(linear(), DATA), 4)
    assert [part.data["x"].flatten().tolist() for part in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_gradients_of_parts_are_those_of_the_closed_form(make_problem: Maker) -> None:
    """Of (w x)² the gradient is 2 w x²: over 0 … 4 twice 6, over 5 … 9 twice 51."""
    problem, seen, done = make_problem(linear(), DATA), [], []

    def visit(_: Any, gradient: torch.Tensor) -> None:
        seen.append(float(gradient))

    before = problem.base.loss and problem.evaluations.gradients
    visit_minibatches(problem, minibatches(problem, 2), visit, done.append)
    assert (seen, done) == ([pytest.approx(12.0), pytest.approx(102.0)], [1, 2])
    assert problem.evaluations.gradients - before == pytest.approx(1.0)


def test_losses_far_from_that_of_all_rows_are_refused(make_problem: Maker) -> None:
    problem = make_problem(linear(), DATA)
    parts, loss = minibatches(problem, 2), problem.base.loss
    require_samples(problem, parts, [1.09 * loss, loss])
    with pytest.raises(MismatchError, match=r"all rows give 28\.5, parts of 5 rows give 31\.49"):
        require_samples(problem, parts, [1.21 * loss, loss])
    with pytest.raises(MismatchError, match="parts of one row give nan"):
        require_samples(problem, minibatches(problem, 10), [float("nan")] * 10)


def test_gradients_far_from_that_of_all_rows_are_refused(make_problem: Maker) -> None:
    """Squared norms: a hundredth of the whole, and a quarter of the doubt."""
    problem = make_problem(linear(), DATA)
    require_mean(problem, gap=1.0 + 0.999, whole=100.0, doubt=4.0)
    with pytest.raises(MismatchError, match="not the mean of those of parts"):
        require_mean(problem, gap=1.0 + 1.001, whole=100.0, doubt=4.0)


def test_parts_that_draw_noise_of_their_own_may_be_apart_by_it(make_problem: Maker) -> None:
    """Five times the doubt; the loss by five standard errors of the parts' mean, here 5 · 14.14 / √2."""
    torch.manual_seed(0)
    noisy = make_problem(nn.Sequential(nn.Dropout(0.5), linear()), DATA, mode="train")
    noisy.draws_apart = True
    require_mean(noisy, gap=1.0 + 4.99, whole=100.0, doubt=1.2)
    with pytest.raises(MismatchError, match="not the mean of those of parts"):
        require_mean(noisy, gap=1.0 + 6.01, whole=100.0, doubt=1.2)
    parts, loss = minibatches(noisy, 2), noisy.base.loss
    allowed = 0.1 * loss + 50.0
    require_samples(noisy, parts, [loss + 0.99 * allowed - 10.0, loss + 0.99 * allowed + 10.0])
    with pytest.raises(MismatchError, match="parts of 5 rows give"):
        require_samples(noisy, parts, [loss + 1.01 * allowed - 10.0, loss + 1.01 * allowed + 10.0])
