"""The validation loss and its derivatives, by the weights and by running statistics."""

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import NumericalError
from fromage_cli.probes.hypergradients.running_statistics import RunningStatistics
from fromage_cli.probes.hypergradients.validation import PARTS, Validation, require_finite, validation_parts
from fromage_cli.problem.data.batches import as_batch, numbered
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import IGNORED, CrossEntropy
from tests.probes.hypergradients.plain_training import perceptron, random_rows


def normalised() -> nn.Module:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for _ in range(3):
            model(random_rows(20)[0] + 1.0)
    return model


def validated(model: nn.Module, *rows: tuple[Tensor, Tensor], micro_batch: int | None = None) -> Validation:
    batches = numbered([as_batch(each, "rows") for each in rows])
    problem = Problem(
        model, CrossEntropy(), batches[0], mode="eval", further=tuple(batches[1:]), micro_batch=micro_batch
    )
    return Validation(problem, validation_parts(batches))


def test_a_single_batch_is_cut_into_parts() -> None:
    for rows, sizes in ((64, [8] * 8), (9, [1, 1, 1, 1, 2, 1, 1, 1]), (3, [1, 1, 1]), (1, [1])):
        parts = validation_parts([as_batch(random_rows(rows), "rows")])
        assert len(parts) == min(PARTS, rows) and sorted(part.size for part in parts) == sorted(sizes)
        assert torch.equal(torch.cat([part.data[0] for part in parts]), random_rows(rows)[0])
        assert [part.first for part in parts] == [sum(p.size for p in parts[:k]) for k in range(len(parts))]


def test_several_batches_are_the_parts() -> None:
    batches = [as_batch(random_rows(rows), "rows") for rows in (4, 20)]
    assert validation_parts(batches) == tuple(batches)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_parts_weighted_by_their_targets_are_the_whole(micro_batch: int | None) -> None:
    """A part all of whose targets are ignored counts for nothing."""
    inputs, targets = random_rows(24)
    targets[3:17] = IGNORED
    subject = validated(perceptron(), (inputs, targets), micro_batch=micro_batch)
    assert subject.shares == pytest.approx([0.3, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.3])
    losses = subject.losses()
    whole = nn.functional.cross_entropy(perceptron()(inputs), targets)
    assert sum(share * loss for share, loss in zip(subject.shares, losses, strict=True)) == pytest.approx(whole.item())
    assert losses[1:5] == [0.0] * 4
    first = nn.functional.cross_entropy(perceptron()(inputs[:3]), targets[:3])
    assert losses[0] == pytest.approx(first.item())


def test_its_losses_are_those_of_evaluation() -> None:
    model, rows = normalised(), (random_rows(16), random_rows(9, seed=1))
    subject = validated(model, *rows)
    model.train()
    found = subject.losses()
    assert model.training
    model.eval()
    assert found == pytest.approx([float(nn.functional.cross_entropy(model(x), y)) for x, y in rows])
    assert subject.problem.evaluations.forwards == pytest.approx(1.0)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_its_gradient_by_weights_and_running_statistics(micro_batch: int | None) -> None:
    model, rows = normalised(), (random_rows(16), random_rows(9, seed=1))
    subject = validated(model, *rows, micro_batch=micro_batch)
    norm: nn.BatchNorm1d = model[1]  # type: ignore[index,assignment]
    statistics = RunningStatistics(Problem(model, CrossEntropy(), subject.parts[0], mode="train"))
    before = [norm.running_mean, norm.running_var]
    found = subject.gradient(subject.problem.trainable, statistics)
    assert norm.running_mean is before[0] and norm.running_var is before[1]
    model.eval()

    def loss() -> Tensor:
        inputs, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
        whole: Tensor = nn.functional.cross_entropy(model(inputs), targets)
        return whole

    assert found.loss == pytest.approx(float(loss()), rel=1e-12)
    expected = torch.autograd.grad(loss(), list(model.parameters()))
    for (name, _), slope in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found.weights[name], slope, rtol=1e-10, atol=1e-14)
    assert list(found.buffers) == ["0.running_mean", "0.running_var"]
    for key, slopes in found.buffers.items():
        buffer = getattr(norm, key.partition(".")[2])
        for channel in range(6):
            ends = []
            for sign in (1.0, -1.0):
                buffer[channel] += sign * 1e-5
                ends.append(float(loss()))
                buffer[channel] -= sign * 1e-5
            assert float(slopes[channel]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9)
    assert subject.problem.evaluations.gradients == 1


def test_what_it_does_not_depend_on_has_a_gradient_of_zero() -> None:
    model = perceptron()
    model.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    subject = validated(model, random_rows(8))
    statistics = RunningStatistics(subject.problem)
    found = subject.gradient(subject.problem.trainable, statistics)
    assert not found.weights["idle"].any() and found.buffers == {}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(loss: float) -> None:
    require_finite(1.0, 3)
    with pytest.raises(NumericalError, match=f"The validation loss is {loss} after 3 further steps") as caught:
        require_finite(loss, 3)
    assert "unroll:N" in str(caught.value.hint)
