from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss, ModelsOwnLoss, OutputLoss
from fromage_cli.problem.losses.summed_loss import SummedLoss, recognise_sum
from fromage_cli.problem.losses.supervised_losses import CrossEntropy

Data = dict[str, Tensor]
Function = Callable[[nn.Module, Data], object]


def summed(model: nn.Module, data: Data) -> Tensor:
    return functional.cross_entropy(model(data["x"]), data["y"], reduction="sum")


def mean(model: nn.Module, data: Data) -> Tensor:
    return functional.cross_entropy(model(data["x"]), data["y"])


def contrast(model: nn.Module, data: Data) -> Tensor:
    """Log of the rows at first, since all outputs are alike: of two and two rows it is half of that of four."""
    output = 0.0 * model(data["x"])
    return functional.cross_entropy(output @ output.T, torch.arange(len(output)))


def decayed(model: nn.Module, data: Data) -> Tensor:
    return summed(model, data) + sum(weight.square().sum() for weight in model.parameters())


def asserting(model: nn.Module, data: Data) -> Tensor:
    assert len(data["x"]) == 32
    return summed(model, data)


def counted(model: nn.Module, data: Data) -> tuple[Tensor, int]:
    return summed(model, data), len(data["x"])


def recognised(function: Function, model: nn.Module, data: Data, rows: int = 32) -> Loss:
    batch = as_batch({name: value[:rows] for name, value in data.items()}, "here")
    return recognise_sum(FunctionLoss("own", function), model, batch)


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 32])
def test_a_sum_is_recognised_and_nothing_else(perceptron: nn.Module, classification: Data, rows: int) -> None:
    found = recognised(summed, perceptron, classification, rows)
    assert isinstance(found, SummedLoss) and (found.name, found.rows) == ("own", rows)
    for function in (mean, contrast, counted, decayed):
        assert isinstance(recognised(function, perceptron, classification, rows), FunctionLoss)


def test_one_row_and_what_few_rows_do_not_have_are_left_alone(perceptron: nn.Module, classification: Data) -> None:
    assert isinstance(recognised(asserting, perceptron, classification), FunctionLoss)
    assert isinstance(recognised(summed, perceptron, classification, 1), FunctionLoss)
    batch = as_batch(classification, "here")
    assert isinstance(recognise_sum(CrossEntropy(), perceptron, batch), CrossEntropy)


@pytest.mark.parametrize("micro_batch", [None, 8, 5])
def test_the_whole_keeps_its_loss_and_parts_are_samples_of_it(
    perceptron: nn.Module, classification: Data, micro_batch: int | None
) -> None:
    loss, batch = recognised(summed, perceptron, classification), as_batch(classification, "here")
    problem = Problem(perceptron, loss, batch, micro_batch=micro_batch)
    expected = summed(perceptron, classification)
    gradients = torch.autograd.grad(expected, list(perceptron.parameters()))
    assert problem.base.loss == pytest.approx(float(expected.detach()), rel=1e-6)
    for found, gradient in zip(problem.base.gradients.values(), gradients, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5)
    parts = [problem.on(batch.rows(start, start + 8)) for start in (0, 8, 16, 24)]
    assert sum(part.value() for part in parts) / 4 == pytest.approx(float(expected.detach()), rel=1e-6)


class OwnSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(self.linear(x), y, reduction="sum")}


class Noisy(nn.Module):
    """A variational autoencoder whose loss is a sum, as in torch's examples, or its mean."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encode, self.decode, self.reduce = nn.Linear(8, 8), nn.Linear(4, 8), reduce

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encode(x).chunk(2, dim=1)
        drawn = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1)
        return self.reduce(((self.decode(drawn) - x) ** 2).sum(1) + divergence)


def test_sums_of_the_model_itself_and_of_draws_are_recognised(classification: Data) -> None:
    whole = as_batch(classification, "here")
    inputs = as_batch({"x": classification["x"]}, "here")
    assert isinstance(recognise_sum(ModelsOwnLoss(), OwnSum(), whole), SummedLoss)
    assert isinstance(recognise_sum(OutputLoss(), Noisy(torch.sum), inputs), SummedLoss)
    assert isinstance(recognise_sum(OutputLoss(), Noisy(torch.mean), inputs), OutputLoss)


def test_a_loss_that_refuses_is_left_alone(perceptron: nn.Module, classification: Data) -> None:
    class Refuses:
        name = "refuses"

        def __call__(self, model: nn.Module, batch: Batch) -> object:
            raise MismatchError("no", "no")

    loss = Refuses()
    assert recognise_sum(loss, perceptron, as_batch(classification, "here")) is loss  # type: ignore[arg-type]
