"""The command as a user and a script meet it."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.cli import main

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "sample_checkpoints"
WITHOUT_TORCH = """
import sys
from fromage_cli.cli import main
try:
    main(["norms", *sys.argv[1:]])
except SystemExit as exit:
    assert not exit.code, exit.code
assert "torch" not in sys.modules
"""


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["norms", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_the_lars_sample_grows_and_its_output_layer_is_not_flagged(run):
    code, out, _ = run(SAMPLES / "convnet-lars", "--optimizer", "lars", "--json", "--fail-on", "warn")
    envelope = json.loads(out)
    assert (code, len(envelope["checkpoints"]), len(envelope["result"]["steps"])) == (10, 10, 10)
    assert [finding["layer"] for finding in envelope["findings"]] == [
        f"convolutions.{index}.weight" for index in range(3)
    ]
    layer = envelope["result"]["layers"][0]
    assert list(layer)[:4] == ["name", "kind", "shape", "parameters"]
    assert layer["invariance"] == {
        "verdict": "untested",
        "granularity": None,
        "cosine": None,
        "response_double": None,
        "response_half": None,
    }
    assert layer["effective_learning_rate"] == [0.02] * 10  # declared beside the checkpoints


def test_the_fromage_sample_does_not(run):
    code, out, _ = run(SAMPLES / "convnet-fromage", "--optimizer", "fromage", "--json", "--fail-on", "warn")
    assert (code, json.loads(out)["findings"]) == (0, [])


def test_settings_from_the_optimizers_state(run):
    result = json.loads(run(SAMPLES / "char-gpt", "--json")[1])["result"]
    assert (result["optimizer"], result["learning_rates"], result["steps"]) == ("adamw", [0.003] * 3, [100, 400, 860])
    assert "output.weight" not in [layer["name"] for layer in result["layers"]]  # tied


def test_tables(run):
    _, out, _ = run(SAMPLES / "mlp-2", "--format", "csv", "--include", "*.1.*")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["name"] == "layers.1.weight" and row["invariance_verdict"] == "untested"
    _, out, _ = run(SAMPLES / "mlp-2", "--format", "csv", "--table", "steps", "--exclude", "*.0.*")
    assert [row["step"] for row in csv.DictReader(io.StringIO(out))] == ["0", "22", "110", "220", "440"]


def test_safetensors_need_no_torch(tmp_path):
    for step in (1, 2):
        save_file({"w": torch.ones(2, 3) * step}, tmp_path / f"step-{step}.safetensors")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_TORCH, "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_layers_that_changed_are_named(run, tmp_path):
    save_file({"w": torch.ones(2, 2), "h": torch.ones(2, 3)}, tmp_path / "step-1.safetensors")
    save_file({"w": torch.ones(2, 2), "h": torch.ones(2, 4)}, tmp_path / "step-2.safetensors")
    assert "Left out 1 layers" in run(tmp_path, "--json")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "CKPT"),
        (("nowhere",), 3, "does not exist"),
        (("run", "--lr", ".1"), 2, "optimizer is unknown"),
        (("run", "--optimizer", "lbfgs"), 2, "lbfgs"),
        (("run", "--include", "nothing*"), 2, "No layer is left"),
        (("run", "--model", "x.py:f"), 2, "--model"),
        (("run", "--lr", "-1"), 2, "--lr"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_file({"w": torch.ones(2, 2)}, tmp_path / "run/step-1.safetensors")
    found, out, err = run(*arguments)
    assert found == code and words in err and out == ""
