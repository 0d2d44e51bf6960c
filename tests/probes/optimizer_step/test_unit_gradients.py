from dataclasses import replace

import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step import unit_gradients
from fromage_cli.probes.optimizer_step.unit_gradients import (
    Units,
    expected_square,
    measure_unit_gradients,
    squares_of_units,
)
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms
from fromage_cli.problem.losses.supervised_losses import SquaredError


def problem(rows=64, norm=False, further=0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4) if norm else nn.Identity(), nn.Linear(4, 1))

    def draw():
        return Batch({"input": torch.randn(rows, 5), "y": torch.randn(rows, 1)}, rows, "drawn")

    return Problem(model, SquaredError(), draw(), further=tuple(draw() for _ in range(further)))


class Contrast:
    """Every row against all others."""

    name = "contrast"

    def __call__(self, model, batch):
        output = model(batch.data["input"])
        return LossTerms((output @ output.T).logsumexp(1).mean(), 1.0)


class Hidden:
    """A term of rows together in the gradient alone."""

    name = "hidden"

    def __call__(self, model, batch):
        output = model(batch.data["input"])
        mixed = output.mean(0).square().sum()
        return LossTerms(output.square().mean() + 20.0 * (mixed - mixed.detach()), 1.0)


def by_hand(found, size):
    """Squared norms of each row of the first layer's gradient, one batch of `size` rows after another."""
    squares = []
    for start in range(0, found.batch.size - size + 1, size):
        part = found.on(found.batch.rows(start, start + size))
        squares.append(part.base.gradients["0.weight"].double().square().sum(1))
    return torch.stack(squares)


def test_parts_of_the_training_size_are_averaged_as_they_are():
    found = problem()
    measured = measure_unit_gradients(found, {"0.weight": Units(4, 0)}, batch_size=4)
    assert measured.batch_size == 4
    assert measured.squares["0.weight"] == pytest.approx(by_hand(found, 4).mean(0).tolist(), rel=1e-5)


def test_other_sizes_are_extrapolated_without_bias():
    generator = torch.Generator().manual_seed(0)
    mean, trials, count, rows, size = torch.tensor([3.0, 0.0, 0.5]), 4000, 16, 4, 32
    estimates = []
    for _ in range(trials):
        gradients = mean[None] + torch.randn(count, 3, generator=generator).double() * (2.0 / rows**0.5)
        estimates.append(expected_square(gradients.sum(0).square(), gradients.square().sum(0), count, rows, size))
    exact = mean.double().square() + 4.0 / size
    assert torch.stack(estimates).mean(0)[0] == pytest.approx(float(exact[0]), rel=0.02)
    assert torch.stack(estimates).mean(0)[2] == pytest.approx(float(exact[2]), rel=0.05)
    assert bool((torch.stack(estimates) >= 0.0).all())


@pytest.mark.parametrize("block", [2, 5, 1 << 20])
def test_units_along_either_dimension(block, monkeypatch):
    monkeypatch.setattr(unit_gradients, "BLOCK", block)
    tensor = torch.arange(24.0).reshape(4, 3, 2)
    assert squares_of_units(tensor, Units(4, 0)).tolist() == tensor.double().square().sum((1, 2)).tolist()
    assert squares_of_units(tensor, Units(2, 0)).tolist() == [
        float(half.double().square().sum()) for half in (tensor[:2], tensor[2:])
    ]
    assert squares_of_units(tensor, Units(3, 1)).tolist() == tensor.double().square().sum((0, 2)).tolist()
    assert squares_of_units(tensor, Units()).tolist() == [float(tensor.double().square().sum())]


def test_batch_norm_takes_whole_training_batches():
    found = problem(norm=True)
    measured = measure_unit_gradients(found, {"0.weight": Units(4, 0)}, batch_size=16)
    assert measured.squares["0.weight"] == pytest.approx(by_hand(found, 16).mean(0).tolist(), rel=1e-5)


def test_several_batches_tell_their_size():
    measured = measure_unit_gradients(problem(8, further=3), {"0.weight": Units()})
    assert (measured.batch_size, len(measured.squares["0.weight"])) == (8, 1)
    found = problem(8, norm=True, further=3)
    whole = measure_unit_gradients(found, {"0.weight": Units()})
    squares = [float(found.on(batch).base.gradients["0.weight"].double().square().sum()) for batch in found.batches]
    assert whole.batch_size == 8
    assert whole.squares["0.weight"] == pytest.approx([sum(squares) / 4], rel=1e-5)


def test_a_loss_of_rows_together_is_measured_on_batches_of_the_training_size():
    """Parts of any other size tell nothing of it: the words are those of the loss, else of the gradient."""
    for loss in (Contrast(), Hidden()):
        found = replace(problem(), loss=loss)
        measured = measure_unit_gradients(found, {"0.weight": Units(4, 0)}, batch_size=16)
        assert measured.squares["0.weight"] == pytest.approx(by_hand(found, 16).mean(0).tolist(), rel=1e-5)
    with pytest.raises(MismatchError, match=r"not a mean over rows: all rows give 4.*, parts of 4 rows") as refused:
        measure_unit_gradients(replace(problem(), loss=Contrast()), {"0.weight": Units()}, 64)
    assert refused.value.hint == "Give rows for two training batches of 64."
    with pytest.raises(MismatchError, match="gradient of all rows is not the mean of those of parts"):
        measure_unit_gradients(replace(problem(), loss=Hidden()), {"0.weight": Units()}, 64)


@pytest.mark.parametrize(
    ("found", "size", "words"),
    [
        (problem(), None, "training batch size is not known"),
        (problem(norm=True), None, "too few rows for two parts"),
        (problem(norm=True), 40, "too few rows for two parts"),
        (problem(8, norm=True, further=3), 16, "gradients of 8 rows are no guide to 16"),
        (problem(1), 4, "too few rows for two parts"),
    ],
)
def test_what_cannot_be_said(found, size, words):
    with pytest.raises(MismatchError, match=words):
        measure_unit_gradients(found, {"0.weight": Units()}, size)
