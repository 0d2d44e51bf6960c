"""Losses at values of their own hyperparameters, against torch's label smoothing and by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import UsageError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.losses.hyperparameters import (
    LABEL_SMOOTHING,
    SmoothedCrossEntropy,
    default_of,
    leaves,
    training_loss,
)
from fromage_cli.problem.losses.reported_losses import FunctionLoss, ModelsOwnLoss
from fromage_cli.problem.losses.summed_loss import SummedLoss
from fromage_cli.problem.losses.supervised_losses import BinaryCrossEntropy, CrossEntropy, SquaredError

cross_entropy = nn.functional.cross_entropy


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def probabilities(*shape: int) -> Tensor:
    return drawn(*shape, seed=1).softmax(1)


INDICES = torch.tensor([0, 3, -100, 1, 2, -100])
OF_TOKENS = torch.tensor([[0, 3, -100], [-100, 1, 2]])
CASES: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {
    "rows": (drawn(6, 4), INDICES.clamp_min(0), drawn(6, 4), INDICES.clamp_min(0)),
    "ignored": (drawn(6, 4), INDICES, drawn(6, 4), INDICES),
    "tokens": (drawn(2, 3, 4), OF_TOKENS, drawn(2, 3, 4).movedim(-1, 1), OF_TOKENS),
    "probabilities": (drawn(6, 4), probabilities(6, 4), drawn(6, 4), probabilities(6, 4)),
}
"""Output and target, and what torch takes them as."""


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_label_smoothing_is_torchs(name: str, smoothing: float) -> None:
    output, target, logits, classes = CASES[name]
    with torch.no_grad():
        found, plain = SmoothedCrossEntropy(smoothing).terms(output, target), CrossEntropy().terms(output, target)
    expected = cross_entropy(logits, classes, label_smoothing=smoothing)
    assert float(found.total / found.count) == pytest.approx(float(expected), rel=1e-13)
    assert found.count == plain.count
    if smoothing == 0.0:
        assert float(found.total) == float(plain.total)


@pytest.mark.parametrize("name", CASES)
def test_its_derivatives_are_torchs(name: str) -> None:
    output, target, logits, classes = CASES[name]
    leaf, other = output.clone().requires_grad_(), logits.clone().requires_grad_()
    found = SmoothedCrossEntropy(0.2).terms(leaf, target)
    (slope,) = torch.autograd.grad(found.total / found.count, leaf)
    (expected,) = torch.autograd.grad(cross_entropy(other, classes, label_smoothing=0.2), other)
    torch.testing.assert_close(slope if slope.dim() == 2 else slope.movedim(-1, 1), expected, rtol=1e-12, atol=1e-15)
    smoothing = leaves({"s": 0.2}, output.device)["s"]
    found = SmoothedCrossEntropy(smoothing).terms(leaf, target)
    (by_smoothing,) = torch.autograd.grad(found.total / found.count, smoothing)
    ends = [cross_entropy(logits, classes, label_smoothing=value) for value in (1.0, 0.0)]  # it is linear
    assert float(by_smoothing) == pytest.approx(float(ends[0] - ends[1]), rel=1e-12)


def test_it_goes_by_the_name_of_cross_entropy() -> None:
    assert SmoothedCrossEntropy(0.3).name == CrossEntropy.name


def penalty(model: nn.Module, batch: Any, l1: float = 0.5, *, scale: float = 1, kind: str = "a") -> Tensor:
    total: Tensor = sum(parameter.abs().sum() for parameter in model.parameters())  # type: ignore[assignment]
    return scale * l1 * total


def required(model: nn.Module, batch: Any, l1: float, **others: float) -> float:
    return l1


def test_values_take_the_place_of_those_before() -> None:
    loss = FunctionLoss("file.py:penalty", penalty, {"l1": 0.1, "scale": 2.0})
    found = training_loss(loss, {"l1": 3.0})
    assert isinstance(found, FunctionLoss) and dict(found.hyperparameters) == {"l1": 3.0, "scale": 2.0}
    assert dict(loss.hyperparameters) == {"l1": 0.1, "scale": 2.0}
    model = nn.Linear(2, 1, bias=False).double()
    terms = found(model, as_batch({"x": torch.zeros(3, 2)}, "rows"))
    assert (terms.total / terms.count).item() == pytest.approx(6.0 * model.weight.abs().sum().item())


def test_nothing_is_changed_where_nothing_is_asked_for() -> None:
    for loss in (CrossEntropy(), SquaredError(), ModelsOwnLoss(), FunctionLoss("f.py:f", penalty, {})):
        assert training_loss(loss, {}) is loss


def test_smoothing_takes_the_place_of_smoothing_and_reaches_into_a_sum() -> None:
    assert training_loss(SmoothedCrossEntropy(0.1), {LABEL_SMOOTHING: 0.4}) == SmoothedCrossEntropy(0.4)
    loss = FunctionLoss("file.py:penalty", penalty, {"l1": 0.1})
    found = training_loss(SummedLoss(loss, 4), {"l1": 5.0})
    assert isinstance(found, SummedLoss) and isinstance(found.loss, FunctionLoss)
    assert found.loss.hyperparameters["l1"] == 5.0


@pytest.mark.parametrize(
    "loss", [SquaredError(), BinaryCrossEntropy(), ModelsOwnLoss(), FunctionLoss("f.py:f", penalty, {})]
)
def test_label_smoothing_belongs_to_cross_entropy(loss: Any) -> None:
    with pytest.raises(UsageError, match=f"belongs to --loss cross-entropy, and the loss is {loss.name}") as caught:
        training_loss(loss, {LABEL_SMOOTHING: 0.1})
    assert "--hyper NAME=VALUE" in str(caught.value.hint)


@pytest.mark.parametrize("loss", [SquaredError(), CrossEntropy(), ModelsOwnLoss()])
def test_a_scalar_belongs_to_a_users_function(loss: Any) -> None:
    with pytest.raises(UsageError, match=f"--hyper l1 is handed to the loss by keyword, and {loss.name}") as caught:
        training_loss(loss, {"l1": 0.1})
    assert "file.py:function" in str(caught.value.hint)


def test_the_default_of_a_keyword() -> None:
    loss = FunctionLoss("f.py:penalty", penalty, {})
    assert (default_of(loss, "l1"), default_of(loss, "scale"), default_of(loss, "kind")) == (0.5, 1.0, None)
    other = FunctionLoss("f.py:required", required, {})
    assert default_of(other, "l1") is None and default_of(other, "anything") is None
    with pytest.raises(UsageError, match="takes no keyword 'l2'; it takes l1, scale, kind") as caught:
        default_of(loss, "l2")
    assert "def function(model, batch, l2=0.0)" in str(caught.value.hint)
    with pytest.raises(UsageError, match="it takes none"):
        default_of(FunctionLoss("f.py:g", lambda model, batch: 0.0, {}), "l2")


def test_leaves_are_scalars_in_double_precision() -> None:
    found = leaves({"a": 0.1, "b": 2.0}, torch.device("cpu"))
    assert {name: float(value.detach()) for name, value in found.items()} == {"a": 0.1, "b": 2.0}
    assert all(v.dtype is torch.float64 and v.dim() == 0 and v.is_leaf and v.requires_grad for v in found.values())
