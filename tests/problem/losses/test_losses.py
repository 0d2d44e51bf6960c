from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError, UnsafeError, UsageError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.losses.losses import are_one_hot, resolve_loss

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0])


class Reports(nn.Linear):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(x)
        return {"logits": logits, "loss": None if labels is None else logits.mean()}


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [
        (nn.Linear(3, 2), {"x": X, "y": LABELS}, "cross-entropy"),
        (nn.Linear(3, 2), {"x": X, "y": LABELS.to(torch.uint8)}, "cross-entropy"),
        (nn.Linear(3, 1), {"x": X, "y": LABELS.float()}, "mse"),
        (Reports(3, 2), {"x": X, "labels": LABELS}, "model's own"),
        (Reports(3, 2), {"x": X, "y": LABELS}, "cross-entropy"),
        (nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), (X, LABELS.float()), "mse"),
    ],
)
def test_auto_chooses_by_the_output_and_the_target(model: nn.Module, data: Any, name: str) -> None:
    assert resolve_loss("auto", model, as_batch(data, "here")).name == name


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (torch.eye(2)[LABELS], True),
        (torch.eye(2)[LABELS] * 0.9 + 0.05, False),
        (torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), False),
        (LABELS.float(), False),
        (LABELS.float()[:, None], False),
        (torch.eye(2, dtype=torch.int64)[LABELS], False),
    ],
)
def test_targets_that_are_classes_written_out(target: Tensor, found: bool) -> None:
    assert are_one_hot(nn.Linear(3, 2), as_batch({"x": X, "y": target}, "here")) is found


@pytest.mark.parametrize("name", ["cross-entropy", "mse", "bce"])
def test_a_built_in_loss_goes_by_its_name(name: str) -> None:
    width = 2 if name == "cross-entropy" else 1
    batch = as_batch({"x": X, "y": LABELS}, "here")
    loss = resolve_loss(name, nn.Linear(3, width), batch)
    assert loss.name == name
    assert loss(nn.Linear(3, width), batch).count == 4


class Output(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean()


def test_the_output_as_the_loss() -> None:
    batch = as_batch({"x": X}, "here")
    assert resolve_loss("output", Output(3, 1), batch).name == "output"
    assert resolve_loss("auto", Output(3, 1), batch).name == "model's own"
    with pytest.raises(MismatchError, match="shape"):
        resolve_loss("output", nn.Linear(3, 1), batch)


@pytest.mark.parametrize(
    ("spec", "data", "words"),
    [
        ("auto", {"x": X}, "no target"),
        ("auto", {"x": X, "y": LABELS.bool()}, "targets of type torch.bool"),
        ("auto", {"x": X, "y": LABELS + 1}, r"from 1 to 2, but the model has 2 classes"),
        ("cross-entropy", {"x": X, "y": LABELS - 1}, "from -1 to 0"),
        ("mse", {"x": X, "y": LABELS.float()}, "expected the same"),
        ("bce", {"x": X, "y": X[:, :2]}, "bce expects 0 to 1"),
        ("auto", {"pixels": X, "y": LABELS}, "does not match"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_measured(spec: str, data: Any, words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        resolve_loss(spec, nn.Linear(3, 2), as_batch(data, "here"))


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Unknown --loss 'crossentropy'") as caught:
        resolve_loss("crossentropy", nn.Linear(3, 2), as_batch({"x": X}, "here"))
    assert "cross-entropy" in caught.value.hint


def test_hyperparameters_need_a_function() -> None:
    with pytest.raises(UsageError, match="takes no arguments"):
        resolve_loss("mse", nn.Linear(3, 2), as_batch({"x": X}, "here"), hyperparameters={"decay": 1.0})


def test_a_function_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def loss(model, batch, *, scale=1.0):\n    return scale * model(batch['x']).square().mean()\nconstant = 3\n"
    )
    spec, batch, model = f"{tmp_path / 'mine.py'}:loss", as_batch({"x": X}, "here"), nn.Linear(3, 1)
    loss = resolve_loss(spec, model, batch, hyperparameters={"scale": 2.0})
    assert loss.name == spec
    assert float(loss(model, batch).total.detach()) == pytest.approx(8 * float(model(X).square().mean().detach()))
    with pytest.raises(MismatchError, match=r"unexpected argument 'decay'.*scale"):
        resolve_loss(spec, model, batch, hyperparameters={"decay": 2.0})
    with pytest.raises(MismatchError, match="is a int, not a function"):
        resolve_loss(spec.replace(":loss", ":constant"), model, batch)
    with pytest.raises(UnsafeError):
        resolve_loss(spec, model, batch, allow_code=False)


def test_deciding_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    resolve_loss("auto", model, as_batch({"x": X, "y": LABELS}, "here"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


class Auxiliary(nn.Module):
    """Returns logits and a scalar that is no loss of theirs, or with targets their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = self.linear(x)
        return logits, logits.square().mean()


class Blind(Auxiliary):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x)


def test_a_scalar_beside_the_output_is_the_loss_only_of_a_model_that_saw_the_target() -> None:
    batch = as_batch((torch.ones(4, 3), torch.tensor([0, 1, 1, 0])), "here")
    assert resolve_loss("auto", Auxiliary(), batch).name == "model's own"
    assert resolve_loss("auto", Blind(), batch).name == "cross-entropy"
    assert resolve_loss("auto", Blind(), as_batch(torch.ones(4, 3), "here")).name == "model's own"
