import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli import ranks
from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import UnsafeError, UsageError
from fromage_cli.findings import Finding
from fromage_cli.intake import declared_by, open_problem, torch_device
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions


def test_an_opened_checkpoint_serves_as_well_as_its_name():
    place = "sample_checkpoints/mlp-16"
    batch = BatchOptions(batch=f"{place}/batch.safetensors")
    named, given = (open_problem(ckpt, ModelOptions(), batch, RunOptions()) for ckpt in (place, open_checkpoint(place)))
    assert (named.notes, named.declared, named.checkpoints) == (given.notes, given.declared, given.checkpoints)
    assert float(named.problem.base.loss) == float(given.problem.base.loss)


def test_code_beside_a_checkpoint_is_declared_under_trust_alone(tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    (tmp_path / "fromage.toml").write_text('model = "network.py:build"\nlearning_rate = 0.1\n')
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(UnsafeError, match="may only name data"):
        declared_by(checkpoint, trust=False).check("model")
    with pytest.raises(UnsafeError, match="may only name data"):
        open_problem(checkpoint, ModelOptions(), BatchOptions(), RunOptions())
    trusted = declared_by(checkpoint, trust=True)
    assert (trusted.model, trusted.learning_rate) == (f"{tmp_path / 'network.py'}:build", 0.1)


@pytest.mark.parametrize(("loss", "count"), [("auto", 1), ("mse", 0), ("cross-entropy", 0)])
def test_a_squared_error_that_nobody_named_is_doubted_where_targets_are_classes(tmp_path, loss, count):
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict(), tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 3), "y": torch.eye(3)[torch.tensor([0, 2, 1, 0])]}, tmp_path / "b.pt")
    batch = BatchOptions(batch=str(tmp_path / "b.pt"), loss=loss)
    intake = open_problem(str(tmp_path / "c.pt"), ModelOptions(), batch, RunOptions())
    own = Finding("code", "info", "said by the command")
    *doubts, last = intake.complete(Answer(None, page=lambda style: "", tables={}, findings=(own,))).findings
    assert last is own and len(doubts) == count
    for doubt in doubts:
        assert (doubt.code, doubt.severity) == ("one-hot-targets", "warn") and "--loss cross-entropy" in doubt.hint


LOSSES = """
from torch.nn import functional

def summed(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")

def mean(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"])
"""


@pytest.mark.parametrize(("name", "codes"), [("summed", ["loss-adds-up"]), ("mean", [])])
def test_a_loss_that_adds_up_over_rows_is_said_to(tmp_path, name, codes):
    (tmp_path / "losses.py").write_text(LOSSES)
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict(), tmp_path / "c.pt")
    torch.save({"x": torch.randn(6, 3), "y": torch.tensor([0, 2, 1, 0, 1, 2])}, tmp_path / "b.pt")
    batch = BatchOptions(batch=str(tmp_path / "b.pt"), loss=f"{tmp_path / 'losses.py'}:{name}", micro_batch=2)
    intake = open_problem(str(tmp_path / "c.pt"), ModelOptions(), batch, RunOptions())
    assert [found.code for found in intake.findings] == codes


def test_a_header_counts_weight_matrices_which_are_no_blocks(tmp_path):
    (tmp_path / "networks.py").write_text(
        "from torch import nn\none = lambda: nn.Linear(3, 3)\ntwo = lambda: nn.Sequential(one(), one())\n"
    )
    torch.save({"x": torch.randn(4, 3), "y": torch.tensor([0, 2, 1, 0])}, tmp_path / "b.pt")
    for name, said in (("one", "Linear, 1 weight matrix"), ("two", "Sequential, 2 weight matrices")):
        model = ModelOptions(model=f"{tmp_path / 'networks.py'}:{name}")
        intake = open_problem(None, model, BatchOptions(batch=str(tmp_path / "b.pt")), RunOptions())
        assert intake.header == (said, "4 rows")


def test_a_device_that_is_not_there_is_refused():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="CUDA device"):
        torch_device("cuda:99")


ROTARY = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.register_buffer("rotation", torch.polar(torch.ones(2), torch.tensor([1.0, 2.0])))

    def forward(self, x):
        turned = torch.view_as_complex(self.inner(x).reshape(-1, 2, 2)) * self.rotation
        return torch.view_as_real(turned).reshape(-1, 4)
"""


def test_each_rank_takes_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local, device in ((0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")):
        monkeypatch.setattr(ranks, "current", lambda local=local: ranks.Ranks(local, 4, local))
        assert torch_device("auto") == torch.device(device)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_complex_buffers_are_not_made_real(tmp_path, dtype):
    (tmp_path / "rotary.py").write_text(ROTARY)
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 3])
    torch.save({"x": x, "y": y}, tmp_path / "b.pt")
    intake = open_problem(
        None,
        ModelOptions(model=f"{tmp_path / 'rotary.py'}:Network"),
        BatchOptions(batch=str(tmp_path / "b.pt")),
        RunOptions(dtype=dtype),
    )
    inner = intake.problem.model.inner
    turned = torch.view_as_complex(inner(x.to(inner.weight.dtype)).reshape(-1, 2, 2))
    turned = turned * torch.polar(torch.ones(2), torch.tensor([1.0, 2.0]))
    expected = torch.nn.functional.cross_entropy(torch.view_as_real(turned).reshape(-1, 4), y)
    assert intake.problem.value() == pytest.approx(float(expected.detach()), rel=1e-6)


def test_what_is_declared_beside_a_remote_checkpoint_counts_but_for_the_batch(tmp_path):
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "batch.npz").write_bytes(b"1")
    (tmp_path / "fromage.toml").write_text('activation = "tanh"\nbatch = "batch.npz"\n')
    assert declared_by(open_checkpoint(str(tmp_path)), trust=False).batch is not None
    remote = declared_by(open_checkpoint(f"local://{tmp_path}"), trust=False)
    assert (remote.activation, remote.batch) == ("tanh", None)


@pytest.mark.parametrize("name", ["fromage.toml", "pyproject.toml"])
def test_what_the_command_line_names_is_run_whatever_stands_beside_the_checkpoint(tmp_path, name):
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict(), tmp_path / "c.pt")
    torch.save({"x": torch.randn(4, 3), "y": torch.tensor([0, 2, 1, 0])}, tmp_path / "b.pt")
    (tmp_path / "net.py").write_text("from torch.nn import *\ndef build():\n    return Sequential(Linear(3, 3))\n")
    model, batch = ModelOptions(model=f"{tmp_path}/net.py:build"), BatchOptions(batch=f"{tmp_path}/b.pt", loss="mse")
    lines = 'seed = 1\ndevice = "gpu"\nmodel = "evil.py:build"\nbatch = 32\nloss = "evil:loss"\n[breakdown]\neta = 3\n'
    if name == "pyproject.toml":
        lines = "[tool.fromage-diag]\n" + lines.replace("[breakdown]", "[tool.fromage-diag.breakdown]")
    for text in (lines, "= 3"):
        (tmp_path / name).write_text(text)
        named = replace(batch, loss="cross-entropy")
        intake = open_problem(str(tmp_path / "c.pt"), model, named, RunOptions())
        assert "evil" not in intake.model and any(name in note for note in intake.notes)
        with pytest.raises((UnsafeError, UsageError)):
            open_problem(str(tmp_path / "c.pt"), ModelOptions(), named, RunOptions())
        with pytest.raises(UsageError):
            open_problem(str(tmp_path / "c.pt"), model, replace(named, batch=None), RunOptions())


WITHOUT_TORCH = """
import sys
from fromage_cli.cli import main
try:
    main(sys.argv[2:])
except SystemExit as exit:
    assert exit.code == int(sys.argv[1])
    assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("code", "arguments"), [(3, ("breakdown", "nowhere.pt")), (3, ("suggest-lr", "nowhere/")), (2, ("sharpness",))]
)
def test_what_is_not_there_is_refused_before_torch_is_loaded(tmp_path, code, arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(code), *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_that_computes_activations_again_has_the_same_numbers():
    place, batch = "sample_checkpoints/mlp-16/step-000440.safetensors", "sample_checkpoints/mlp-16/batch.safetensors"
    network = ModelOptions(model="sample_checkpoints/models.py:mlp", model_arg=["depth=16"])
    plain, light = (
        open_problem(place, network, BatchOptions(batch=batch), RunOptions(dtype="float64", recompute=recompute))
        for recompute in (False, True)
    )
    for first, second in ((plain.problem, light.problem), (plain.rebuilt(), light.rebuilt())):
        assert second.base.loss == pytest.approx(first.base.loss, rel=1e-12)
        for name, gradient in first.base.gradients.items():
            torch.testing.assert_close(second.base.gradients[name], gradient, rtol=1e-12, atol=1e-12)


def test_in_training_mode_a_line_says_that_nothing_is_compiled():
    place, batch = "sample_checkpoints/mlp-16/step-000440.safetensors", "sample_checkpoints/mlp-16/batch.safetensors"
    for mode in ("train", "auto"):
        opened = open_problem(place, ModelOptions(), BatchOptions(batch=batch, mode=mode), RunOptions(compile=True))
        assert any("--compile" in note for note in opened.notes) == (mode == "train")
        assert opened.problem.compiled
