"""Gradients added up over chunks are those of the whole batch, however the loss counts its rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss, ModelsOwnLoss
from fromage_cli.problem.losses.supervised_losses import BinaryCrossEntropy, CrossEntropy, SquaredError

ROWS, TIMES, CLASSES = 13, 6, 5


class Tagger(nn.Module):
    """A class for each place of a sequence, from the places up to it; with labels also its own mean loss."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.norm = nn.GRU(4, 8, batch_first=True), nn.LayerNorm(8)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.output(self.norm(self.recurrent(inputs)[0]))
        if labels is None:
            return logits
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Unlabelled(Tagger):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


def labels() -> Tensor:
    """Ignored places: none in the first row, all in rows 4 to 6, ever more in the others."""
    drawn = torch.randint(CLASSES, (ROWS, TIMES))
    drawn[torch.rand(ROWS, TIMES) < torch.linspace(0.0, 0.9, ROWS)[:, None]] = -100
    drawn[4:7] = -100
    return drawn


def sum_and_count(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows have weights of their own, and rows 4 to 6 none."""
    errors = (model(batch["inputs"]) - batch["labels"][..., None].clamp(min=0)).square().mean((1, 2))
    weights = (batch["labels"] >= 0).sum(1) ** 2
    return (weights * errors).sum(), weights.sum()


def mean(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["inputs"]).square().mean()


LOSSES: dict[str, tuple[type[nn.Module], Loss, Callable[[], Tensor]]] = {
    "ignored targets": (Unlabelled, CrossEntropy(), labels),
    "the model's own": (Tagger, ModelsOwnLoss(), labels),
    "(sum, count)": (Unlabelled, FunctionLoss("f", sum_and_count), labels),
    "a function's mean": (Unlabelled, FunctionLoss("f", mean), labels),
    "squared error": (Unlabelled, SquaredError(), lambda: torch.randn(ROWS, TIMES, CLASSES)),
    "probabilities": (Unlabelled, BinaryCrossEntropy(), lambda: torch.rand(ROWS, TIMES, CLASSES)),
}


def gradients(problem: Problem) -> tuple[float, dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}
    loss = problem.visit_gradient(lambda tensor, gradient: seen.__setitem__(tensor.name, gradient.clone()))
    return loss, seen


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("size", [1, 3, 4, 12, 13])
@pytest.mark.parametrize("name", LOSSES)
def test_chunks_of_any_size_give_the_gradient_of_the_whole(
    name: str, size: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Each tensor's gradient is off by at most 1e-5 of its size; 13 rows leave an uneven chunk of 1 row or more."""
    torch.manual_seed(3)
    kind, loss, make_target = LOSSES[name]
    model = kind().to(dtype)
    batch = as_batch({"inputs": torch.randn(ROWS, TIMES, 4), "labels": make_target()}, "here").to("cpu", dtype)
    whole_loss, whole = gradients(Problem(model, loss, batch))
    split = Problem(model, loss, batch, micro_batch=size)
    split_loss, added = gradients(split)
    assert split_loss == pytest.approx(whole_loss, rel=tolerance)
    assert list(split.base.gradients) == [tensor.name for tensor in split.trainable] and set(added) == set(whole)
    for tensor, gradient in whole.items():
        assert float((added[tensor] - gradient).norm() / gradient.norm()) < tolerance, tensor
        assert float((split.base.gradients[tensor] - gradient).norm() / gradient.norm()) < tolerance, tensor
    assert split.evaluations.gradients == 2


def test_a_batch_that_counts_nothing_is_refused_whoever_counts() -> None:
    batch = as_batch({"inputs": torch.randn(4, TIMES, 4), "labels": torch.full((4, TIMES), -100)}, "here")
    for model, loss in ((Unlabelled(), FunctionLoss("f", sum_and_count)), (Tagger(), ModelsOwnLoss())):
        for size in (None, 3):
            problem = Problem(model, loss, batch)
            problem.micro_batch = size
            with pytest.raises(MismatchError, match="Every target of the batch is ignored"):
                _ = problem.base
