from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.errors import UsageError
from fromage_cli.intake import gather_run
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.options import BatchOptions, ModelOptions, NameOptions, RunOptions

FACTORY = """
from torch import nn

def network():
    return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two checkpoints with a layer that the model does not have, and a batch."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 3))
    for step in (10, 20):
        save_file(model.state_dict(), f"step-{step}.safetensors")
    save_file({"x": torch.randn(8, 6), "y": torch.randint(3, (8,))}, "batch.safetensors")
    (tmp_path / "network.py").write_text(FACTORY)
    return tmp_path


RUN = ["step-10.safetensors", "step-20.safetensors"]
MODEL, BATCH = ModelOptions(model="network.py:network"), BatchOptions(batch="batch.safetensors")


def test_a_run_has_the_layers_of_all_its_checkpoints(folder: Path) -> None:
    run = gather_run(RUN, ModelOptions(), NameOptions())
    assert [checkpoint.step for checkpoint in run.checkpoints] == [10, 20]
    assert (run.names, run.elements, run.shapes) == (("0.weight", "2.weight"), 2 * 45, None)
    assert run.in_model(ModelOptions(), BatchOptions(), RunOptions()) is run


def test_a_model_tells_layers_and_shapes(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions(include=["0.*"])).in_model(MODEL, BATCH, RunOptions())
    assert list(run.layers) == ["0.weight"] == list(run.names)
    assert run.shapes is not None
    assert list(run.shapes) == ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert run.shapes["0.weight"] == (5, 6)


def test_scales_do_not_show_in_three_digits(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions())
    with pytest.raises(UsageError, match="--autocast rounds"):
        run.in_model(MODEL, BATCH, RunOptions(autocast=True))


def test_every_checkpoint_and_each_note_once(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions()).in_model(MODEL, BATCH, RunOptions())
    answer = run.complete(Answer(None, page=lambda style: "", tables={}, notes=("a", "b", "a")))
    assert [record.step for record in answer.checkpoints] == [10, 20]
    assert answer.notes[-2:] == ("a", "b") and answer.notes[0].startswith("model: ")


def test_the_cost_of_reading_and_of_the_tests(folder: Path) -> None:
    run = gather_run(RUN, MODEL, NameOptions())
    (alone,) = run.estimate(1000, 2.0, copies=2).tables["estimate"]().rows
    assert alone == (0.0, 1000, 2.0)
    inside = run.in_model(MODEL, BATCH, RunOptions())
    (more,) = inside.estimate(10**12, 2.0, gradients=1, copies=2).tables["estimate"]().rows
    (less,) = inside.estimate(10**12, 2.0, copies=2, beside=True).tables["estimate"]().rows
    assert more[0] == less[0] + 1 and more[1] == 10**12 < less[1] and more[2] > 2.0
