from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.losses.call import call_model
from fromage_cli.problem.losses.reported_losses import (
    FunctionLoss,
    ModelsOwnLoss,
    OutputLoss,
    count_of_own_loss,
    own_loss,
)

SCALAR = torch.tensor(2.0)


@pytest.mark.parametrize(
    "output",
    [
        SCALAR,
        (torch.ones(2, 3), SCALAR),
        (SCALAR, torch.ones(2)),
        {"loss": SCALAR},
        SimpleNamespace(loss=SCALAR, logits=1),
    ],
)
def test_where_a_models_own_loss_is_found(output: Any) -> None:
    assert own_loss(output) is SCALAR


@pytest.mark.parametrize(
    "output",
    [torch.ones(2), (torch.ones(2), None), {"logits": SCALAR}, SimpleNamespace(loss=None), torch.tensor(3), None],
)
def test_outputs_without_a_loss(output: Any) -> None:
    assert own_loss(output) is None


class LanguageModel(nn.Module):
    """Returns (logits, mean loss over the targets that are not negative), as small GPTs do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.table(idx)
        if targets is None:
            return logits, None
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class TinyForCausalLM(LanguageModel):
    pass


def test_a_models_own_loss_is_weighted_by_its_targets_so_that_chunks_add_up() -> None:
    model = LanguageModel()
    x, y = torch.randint(5, (4, 3)), torch.randint(5, (4, 3))
    y[0, :2], y[3, 1] = -1, -1
    batch = as_batch({"x": x, "y": y}, "here")
    whole = ModelsOwnLoss()(model, batch)
    chunks = [ModelsOwnLoss()(model, batch.rows(start, start + 1)) for start in range(4)]
    assert whole.count == sum(chunk.count for chunk in chunks) == 9
    split = sum(float(chunk.total.detach()) for chunk in chunks) / 9
    assert split == pytest.approx(float(whole.total.detach()) / whole.count, rel=1e-6)


def test_a_models_own_loss_of_rows_without_targets_counts_nothing() -> None:
    model = LanguageModel()
    batch = as_batch({"x": torch.randint(5, (2, 3)), "y": torch.full((2, 3), -1)}, "here")
    terms = ModelsOwnLoss()(model, batch)
    assert (float(terms.total.detach()), terms.count) == (0.0, 0.0)
    (gradient,) = torch.autograd.grad(terms.total, model.parameters())
    assert not gradient.any()


def test_what_a_models_own_loss_is_the_mean_over() -> None:
    labels = torch.tensor([[1, 2, -100], [-100, -100, 3]])
    batch = as_batch((labels, labels), "here")
    assert count_of_own_loss(LanguageModel(), labels, batch) == 3
    assert count_of_own_loss(TinyForCausalLM(), labels, batch) == 2
    assert count_of_own_loss(LanguageModel(), labels.float(), batch) == 2
    assert count_of_own_loss(LanguageModel(), None, batch) == 2


class Energy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square().mean()


def test_an_output_that_is_the_loss_is_weighted_by_rows() -> None:
    model, batch = Energy(3, 1), as_batch(torch.randn(5, 3), "here")
    terms = OutputLoss()(model, batch)
    assert float(terms.total.detach()) == pytest.approx(5 * float(model(batch.data).detach()))
    assert terms.count == 5


def test_an_output_that_is_no_loss_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"the model's output has shape \[5, 1\]"):
        OutputLoss()(nn.Linear(3, 1), as_batch(torch.randn(5, 3), "here"))


def mean(model: nn.Module, batch: Any, decay: float = 0.0) -> Tensor:
    return model(batch["features"]).mean() + decay


def test_a_functions_mean_is_weighted_by_rows_and_sees_what_the_batch_function_returned() -> None:
    model, batch = nn.Linear(3, 1), as_batch({"features": torch.randn(5, 3), "names": list("abcde")}, "here")
    terms = FunctionLoss("losses.py:mean", mean)(model, batch)
    assert float(terms.total.detach()) == pytest.approx(5 * float(model(batch.data["features"]).mean().detach()))
    assert terms.count == 5
    other = replace(FunctionLoss("losses.py:mean", mean), hyperparameters={"decay": 2.0})(model, batch)
    assert float((other.total - terms.total).detach()) == pytest.approx(10.0)


@pytest.mark.parametrize("count", [3, 3.0, torch.tensor(3)])
def test_a_functions_sum_and_count_are_taken_as_they_are(count: Any) -> None:
    model, batch = nn.Linear(3, 1), as_batch(torch.randn(5, 3), "here")
    terms = FunctionLoss("f", lambda model, x: (model(x).sum(), count))(model, batch)
    assert float(terms.total.detach()) == pytest.approx(float(model(batch.data).sum().detach()))
    assert terms.count == 3.0


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda model, x: 1.0, "is a float"),
        (lambda model, x: model(x), r"has shape \[5, 1\]"),
        (lambda model, x: model(x).sum().detach(), "has no gradient"),
        (lambda model, x: (model(x).sum(), -1), "a count of 0 or more"),
        (lambda model, x: (model(x).sum(), torch.ones(2)), "a count of 0 or more"),
        (lambda model, x: (model(x).sum(), 1, 2), "returned 3 values"),
        (lambda model, x: x[100], r"IndexError while computing the loss f \(.*test_reported_losses.py:\d+\)"),
    ],
)
def test_what_a_function_gets_wrong_is_said(function: Any, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        FunctionLoss("f", function)(nn.Linear(3, 1), as_batch(torch.randn(5, 3), "here"))


def test_a_function_may_take_the_batch_apart_and_write_into_it() -> None:
    def popped(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        target = batch.pop("y")
        target[target == 0] = 1
        return functional.mse_loss(model(batch["x"]).squeeze(1), target.add_(1.0))

    loss, batch = FunctionLoss("popped", popped), as_batch({"x": torch.ones(2, 3), "y": torch.ones(2)}, "here")
    model = nn.Linear(3, 1)
    call_model(
        model, as_batch({"x": torch.ones(2, 3)}, "here")
    )  # that the model leaves its input says nothing of the loss
    first, second = (float((terms := loss(model, batch)).total.detach()) / terms.count for _ in range(2))
    assert first == second
    assert torch.equal(batch.data["y"], torch.ones(2))


def test_the_loss_inside_an_output_is_one_floating_number_without_dimensions() -> None:
    loss = torch.tensor(1.0)
    assert own_loss(loss) is own_loss((torch.ones(2), loss)) is loss
    assert not any(own_loss(output) is not None for output in (torch.ones(1), torch.tensor(1), 1.0, None, (1.0,)))
