import sys
from importlib import import_module, reload
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import api
from fromage_cli.errors import InputError, UsageError

pytest.importorskip("accelerate")  # without which transformers trains nothing


@pytest.fixture
def callback() -> Any:
    pytest.importorskip("transformers")
    return import_module("fromage_cli.callbacks.transformers").BundleCallback


class Network(nn.Module):
    """Returns its loss beside its output, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = self.layers(x)
        return {"loss": functional.cross_entropy(output, labels), "logits": output}


def train(callbacks: list[Any], directory: Path, accumulate: int = 1) -> tuple[nn.Module, list[float], list[Tensor]]:
    """A short run with shuffling and dropout: the network, and the loss and the rows of every batch."""
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(0)
    network = Network()
    losses: list[float] = []
    inputs: list[Tensor] = []

    class Recording(Trainer):
        def compute_loss(self, model: nn.Module, given: Any, *others: Any, **named: Any) -> Any:
            inputs.append(given["x"])
            loss = super().compute_loss(model, given, *others, **named)
            losses.append(loss.item())
            return loss

    rows = [{"x": torch.randn(4), "labels": int(torch.randint(3, ()))} for _ in range(24)]
    arguments = TrainingArguments(
        str(directory),
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    Recording(network, arguments, train_dataset=rows, callbacks=callbacks).train()  # type: ignore[arg-type]
    return network, losses, inputs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_bundles_are_written_and_the_run_stays_the_same(callback: Any, tmp_path: Path, accumulate: int) -> None:
    alone, without, _ = train([], tmp_path / "alone", accumulate)
    watched, found, inputs = train([callback(tmp_path / "bundles", 3)], tmp_path / "watched", accumulate)
    assert found == without and len(found) == 6 * accumulate
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert not watched._forward_pre_hooks
    assert sorted(place.name for place in (tmp_path / "bundles").iterdir()) == ["step-000003", "step-000006"]
    problem = api.problem(tmp_path / "bundles" / "step-000006", mode="eval")
    data = problem.batch.data
    assert sorted(data) == ["labels", "x"] and torch.equal(data["x"], inputs[-1])
    assert problem.base.loss == pytest.approx(watched.eval()(**data)["loss"].item(), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_question_is_asked_about_each_bundle(
    callback: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, without, _ = train([], tmp_path / "alone")
    _, found, _ = train([callback(tmp_path / "bundles", 3, ask=api.state)], tmp_path / "watched")
    assert found == without
    told = capsys.readouterr().err
    assert [f"step-00000{step}" in told for step in (3, 6)] == [True, True]


@pytest.mark.filterwarnings("ignore")
def test_the_batch_may_be_a_part_of_the_inputs(callback: Any, tmp_path: Path) -> None:
    def some(inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value[:2] for name, value in inputs.items()}

    train([callback(tmp_path / "bundles", 6, batch=some)], tmp_path)
    assert api.problem(tmp_path / "bundles" / "step-000006").rows == 2


def test_steps_that_cannot_be_are_refused(callback: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every_n_steps is 0"):
        callback(tmp_path, 0)


def test_without_the_library_the_extra_is_named(callback: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["fromage_cli.callbacks.transformers"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="extra: hf") as refused:
        reload(module)
    assert "fromage-diag[hf]" in refused.value.hint
