import sys
from importlib import import_module, reload
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fromage_cli import api
from fromage_cli.errors import InputError, UsageError

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
}


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def library(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


@pytest.fixture
def callback() -> Any:
    pytest.importorskip("pytorch_lightning")
    return import_module("fromage_cli.callbacks.lightning").BundleCallback


def train(library: Any, callbacks: list[Any], steps: int = 6, accumulate: int = 1) -> tuple[Any, list[float]]:
    """A short run with shuffling and dropout: the trained network, and the loss of every batch."""
    torch.manual_seed(0)
    losses = []

    class Network(library.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, number: int) -> Tensor:
            loss = functional.cross_entropy(self(batch[0]), batch[1])
            losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    rows = TensorDataset(torch.randn(32, 4), torch.randint(3, (32,)))
    network = Network()
    trainer = library.Trainer(max_steps=steps, callbacks=callbacks, accumulate_grad_batches=accumulate, **QUIET)
    trainer.fit(network, DataLoader(rows, batch_size=8, shuffle=True))
    return network, losses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_bundles_are_written_and_the_run_stays_the_same(
    library: Any, callback: Any, tmp_path: Path, accumulate: int
) -> None:
    alone, without = train(library, [], accumulate=accumulate)
    watched, found = train(library, [callback(tmp_path, 3, "cross-entropy")], accumulate=accumulate)
    assert found == without and len(found) == 6 * accumulate
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert sorted(place.name for place in tmp_path.iterdir()) == ["step-000003", "step-000006"]
    kept = api.open_checkpoint(tmp_path / "step-000006")
    assert kept.step == 6 and kept.optimizer is not None and kept.optimizer.steps == 6
    problem = api.problem(tmp_path / "step-000006", mode="eval")
    assert problem.rows == 8
    x, y = problem.batch.data
    exact = functional.cross_entropy(watched.eval()(x), y).item()
    assert problem.base.loss == pytest.approx(exact, rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_question_is_asked_about_each_bundle(
    callback: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = pytest.importorskip("pytorch_lightning")
    _, without = train(library, [])
    network, found = train(library, [callback(tmp_path, 3, "cross-entropy", ask=api.breakdown)])
    assert found == without and network.training
    told = capsys.readouterr().err
    assert [f"step-00000{step}" in told for step in (3, 6)] == [True, True]
    assert told.count("every layer") >= 2


@pytest.mark.filterwarnings("ignore")
def test_the_batch_and_the_loss_may_be_functions(callback: Any, tmp_path: Path) -> None:
    library = pytest.importorskip("pytorch_lightning")

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=0.1)

    train(library, [callback(tmp_path, 2, loss, batch=lambda batch: {"x": batch[0][:5], "y": batch[1][:5]})], steps=2)
    problem = api.problem(tmp_path / "step-000002")
    assert problem.rows == 5 and sorted(problem.batch.data) == ["x", "y"]


def test_steps_that_cannot_be_are_refused(callback: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every_n_steps is 0"):
        callback(tmp_path, 0)


def test_without_the_library_the_extra_is_named(callback: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["fromage_cli.callbacks.lightning"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="extra: lightning") as refused:
        reload(module)
    assert "fromage-diag[lightning]" in refused.value.hint
