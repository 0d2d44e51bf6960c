"""Signal and noise of real gradients, against the gradient of all the data and of many drawn batches."""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.errors import MismatchError
from fromage_cli.probes.optimizer_step.gradient_noise import GradientNoise, measure_noise, noise_chunks
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms
from fromage_cli.problem.losses.losses import Loss
from fromage_cli.theory.gradient_noise import cosine_error

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]


def measured(problem: Problem, count: int, **settings: Any) -> GradientNoise:
    return measure_noise(problem, noise_chunks(problem, count), **settings)


def population(rows: int) -> Data:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, 8, generator=generator)
    labels = (x[:, 0] + torch.randn(rows, generator=generator) > 0).long() + (x[:, 1] > 1).long()
    return {"x": x, "y": labels}


def flat_gradients(model: nn.Module, data: Data, layers: list[nn.Parameter]) -> list[torch.Tensor]:
    loss = nn.functional.cross_entropy(model(data["x"]), data["y"])
    return list(torch.autograd.grad(loss, layers))


def test_the_cosine_is_that_of_batches_drawn_from_the_population(make_problem: Maker, perceptron: nn.Module) -> None:
    everything, size = population(16384), 24
    names = ["0.weight", "2.weight", "4.weight"]
    layers = [dict(perceptron.named_parameters())[name] for name in names]
    truth = flat_gradients(perceptron, everything, layers)
    generator = torch.Generator().manual_seed(1)
    squares: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(300):
        rows = torch.randint(16384, (size,), generator=generator)
        part = {key: value[rows] for key, value in everything.items()}
        for name, gradient in zip(names, flat_gradients(perceptron, part, layers), strict=True):
            squares[name].append(float(gradient.square().sum()))
    problem = make_problem(perceptron, {key: value[:1024] for key, value in everything.items()})
    noise = measured(problem, 16)
    for name, gradient in zip(names, truth, strict=True):
        expected = float(gradient.norm()) / math.sqrt(mean(squares[name]))
        error = cosine_error(noise.chunks[name], size)
        assert error is not None and error < 0.1
        assert abs(noise.moments(name).cosine(size) - expected) < 3 * error + 0.02
    assert problem.evaluations.gradients == pytest.approx(2.0)


def test_several_batches_are_cut_into_equal_chunks(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    whole = make_problem(perceptron, classification)
    halves = [
        as_batch({key: value[s] for key, value in classification.items()}, "") for s in (slice(16), slice(16, 32))
    ]
    several = make_problem(perceptron, {key: value[:16] for key, value in classification.items()}, further=(halves[1],))
    together, apart = (measured(problem, 8) for problem in (whole, several))
    assert (together.rows, together.count) == (apart.rows, apart.count) == (4, 8)
    assert apart.noise_scale == pytest.approx(together.noise_scale, rel=1e-4)


def test_what_is_remembered_are_means_over_the_chunks(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    layer = dict(perceptron.named_parameters())["2.weight"]
    parts = [{key: value[i : i + 4] for key, value in classification.items()} for i in range(0, 32, 4)]
    gradients = torch.stack([flat_gradients(perceptron, part, [layer])[0] for part in parts])
    kept = measured(problem, 8, remember=True).memory["2.weight"]
    torch.testing.assert_close(kept.mean, gradients.mean(0))
    torch.testing.assert_close(kept.square, gradients.square().mean(0))
    larger = measured(problem, 8, remember=True, batch_size=16).memory["2.weight"]
    variance = gradients.var(0)
    expected = gradients.mean(0).square() + variance * 4 / 16
    torch.testing.assert_close(larger.square, expected)


def test_rows_are_never_cut_where_their_number_is_part_of_the_loss(make_problem: Maker, classification: Data) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    problem = make_problem(model, classification)
    assert noise_chunks(problem, 16) == []
    assert [part.size for part in noise_chunks(problem, 16, batch_size=10)] == [10, 10, 10]
    assert len(noise_chunks(make_problem(model, classification, mode="eval"), 16)) == 16
    several = make_problem(model, classification, further=(as_batch(classification, ""),))
    assert [part.size for part in noise_chunks(several, 16)] == [32, 32]


class Contrast:
    """Every row against all others."""

    name = "contrast"

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        output = model(batch.data["x"])
        return LossTerms((output @ output.T).logsumexp(1).mean(), 1.0)


class Hidden:
    """A term of rows together in the gradient alone: the loss of parts is that of all rows."""

    name = "hidden"

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        output = model(batch.data["x"])
        mixed = 20.0 * output.std(0).sum()
        return LossTerms(nn.functional.cross_entropy(output, batch.data["y"]) + mixed - mixed.detach(), 1.0)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Contrast(), "a mean over rows: all rows give 3.524, parts of 2 rows give 0.7592"),
        (Hidden(), "a mean over rows: the gradient of all rows is not the mean of those of parts"),
    ],
)
def test_a_loss_of_rows_together_has_no_noise_of_parts(
    make_problem: Maker, perceptron: nn.Module, classification: Data, loss: Loss, words: str
) -> None:
    mixing = replace(make_problem(perceptron, classification), loss=loss)
    with pytest.raises(MismatchError, match=words):
        measure_noise(mixing, noise_chunks(mixing, 16))


def test_a_loss_that_one_row_does_not_have_is_one_of_rows_together(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    class Spread:
        name = "spread"

        def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
            return LossTerms(model(batch.data["x"]).std(0).sum(), 1.0)

    mixing = replace(make_problem(perceptron, classification), loss=Spread())
    with pytest.raises(MismatchError, match=r"parts of one row give nan$"):
        measure_noise(mixing, noise_chunks(mixing, 32))


def test_parts_of_unequal_weight_and_rows_left_over_are_samples_all_the_same(
    make_problem: Maker, perceptron: nn.Module
) -> None:
    """Targets that are ignored make parts weigh differently; two of 50 rows belong to no part."""
    data = population(50)
    data["y"][torch.tensor([1, 2, 4, 5, 7, 13, 14, 22, 25, 26, 31, 37, 41])] = -100
    assert measured(make_problem(perceptron, data), 16).count == 16


def test_one_row_has_no_noise_to_be_seen(make_problem: Maker, perceptron: nn.Module, classification: Data) -> None:
    problem = make_problem(perceptron, {key: value[:1] for key, value in classification.items()})
    assert noise_chunks(problem, 16) == []


def test_where_noise_dominates_there_is_no_scale(make_problem: Maker) -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    x = torch.ones(8, 1)
    problem = make_problem(model, {"x": x, "y": torch.tensor([1.0, -1.0] * 4)[:, None]})
    noise = measured(problem, 8)
    assert noise.moments("weight").squared_norm < 0
    assert noise.noise_scale is None
