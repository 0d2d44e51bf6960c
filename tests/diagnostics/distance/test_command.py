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
from torch import nn

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "sample_checkpoints"
WITHOUT_TORCH = """
import sys
from fromage_cli.cli import main
try:
    main(["distance", *sys.argv[1:]])
except SystemExit as exit:
    assert not exit.code, exit.code
assert "torch" not in sys.modules
"""
MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(2, 3, bias=False), nn.LeakyReLU(.5), nn.Linear(3, 3, bias=False), nn.LeakyReLU(.5))

def batch():
    return {"input": torch.randn(6, 2), "y": torch.zeros(6, 3)}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two checkpoints of one small network, its code, and one of another network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(MODEL)
    scope = {}
    exec(MODEL, scope)
    for seed, name in enumerate(("a-1", "b-5")):
        torch.manual_seed(seed)
        save_file(scope["build"]().state_dict(), f"{name}.safetensors", metadata={"step": name[-1]})
    save_file({"other": torch.ones(2, 2)}, "other.safetensors")
    save_file(nn.Linear(2, 3).state_dict(), "vectors.safetensors")
    return tmp_path


def test_two_steps_of_a_sample(run):
    code, out, _ = run(
        SAMPLES / "convnet-lars/step-000000.safetensors", SAMPLES / "convnet-lars/step-002970.safetensors", "--json"
    )
    envelope = json.loads(out)
    result = envelope["result"]
    assert code == 0 and [Path(record["path"]).stem for record in envelope["checkpoints"]] == [
        "step-000000",
        "step-002970",
    ]
    layer = result["layers"][0]
    assert list(layer)[:4] == ["name", "kind", "shape", "parameters"]
    assert layer["second_norm"] / layer["first_norm"] == pytest.approx(1.811, abs=1e-3)
    # LARS moved every tensor by .02 a step; the gradients of single batches are nearly independent
    assert layer["implied_step"]["wandering"] == pytest.approx(0.02, rel=0.3)
    assert layer["implied_step"]["straight"] < 1e-3
    assert set(layer["condition_number"]) == {"first", "second", "difference"}
    assert result["function_distance"] is result["log10_bound"] is None
    assert set(result["missing"]) == {"function_distance", "largest_function_distance", "log10_bound", "bound"}
    assert {missing["code"] for missing in result["missing"].values()} == {"no-model"}
    assert "missing" not in layer


def test_the_function_part_of_a_perceptron_that_is_rebuilt(run):
    pair = [SAMPLES / f"mlp-2/step-{step:06d}.safetensors" for step in (0, 440)]
    code, out, err = run(*pair, "--model", "auto", "--json")
    envelope = json.loads(out)
    assert code == 0 and envelope["problem"]["batch_size"] == 512 and envelope["tool"]["forward_evaluations"] >= 2
    assert envelope["result"]["function_distance"] == pytest.approx(13.1, rel=0.01)
    assert envelope["result"]["layers"][0]["kind"] == "Linear"
    bias = {"code": "no-formula", "reason": "layers.0 has a bias"}
    assert envelope["result"]["missing"] == {"log10_bound": bias, "bound": bias}
    assert len(envelope["checkpoints"]) == 2 and "perceptron" in err


def test_theorem_1_from_the_shell(run, home):
    code, out, _ = run("a-1.safetensors", "b-5.safetensors", "--batch", "network.py:batch", *given(), "--json")
    result = json.loads(out)["result"]
    assert code == 0 and result["bound"]["alpha"] == 0.5
    assert result["largest_function_distance"] <= 10 ** result["log10_bound"]
    assert result["layers"][0]["implied_step"]["straight"] > 0


def given():
    return "--model", "network.py:build"


def test_tables_and_pages(run, home):
    code, out, _ = run("a-1.safetensors", "b-5.safetensors", "--format", "csv", "--tensors", "all")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["name"] for row in rows] == ["0.weight", "2.weight"]
    assert float(rows[0]["condition_number_first"]) > 1.0
    shown = run("a-1.safetensors", "b-5.safetensors", "--format", "rich")[1]
    assert shown.splitlines()[0].endswith("a-1 → b-5 · 4 steps · 2 layers") and " moved most: " in shown
    assert "What now: fromage-diag distance " in shown and " --batch FILE compares the outputs too." in shown
    named = run("a-1.safetensors", "b-5.safetensors", "--format", "csv", "--table", "summary")[1]
    summary = {row["name"]: row["value"] for row in csv.DictReader(io.StringIO(named))}
    assert summary["moved_most"] in ("0.weight", "2.weight") and summary["training_steps"] == "4"
    assert run("a-1.safetensors", "b-5.safetensors", "--no-spectrum", "--format", "tsv")[1].endswith("\t\t\t\n")


def test_the_same_file_twice(run, home):
    code, out, _ = run("a-1.safetensors", "a-1.safetensors", "--format", "rich")
    assert code == 0 and "Nothing moved: the two hold the same numbers in all 2 layers." in " ".join(out.split())


def test_a_narrower_copy_is_told_from_a_trained_one(run, home):
    tensors = {"w": torch.randn(30, 30, generator=torch.Generator().manual_seed(0))}
    save_file(tensors, "wide.safetensors")
    save_file({"w": tensors["w"].bfloat16()}, "narrow.safetensors")
    envelope = json.loads(run("wide.safetensors", "narrow.safetensors", "--json")[1])
    (finding,) = envelope["findings"]
    assert finding["code"] == "dtypes-differ" and "rounding to bfloat16" in finding["message"]
    assert envelope["result"]["layers"][0]["second_dtype"] == "bfloat16"


@pytest.mark.parametrize("more", [(), ("--batch", "network.py:batch", *given())])
def test_the_cost_is_told_beforehand(run, home, more):
    code, out, _ = run("a-1.safetensors", "b-5.safetensors", *more, "--estimate", "--json")
    estimate = json.loads(out)["result"]["estimate"]
    assert code == 0 and estimate["bytes"] > 0 and estimate["seconds"] > 0
    assert (estimate["gradients"] > 0) == bool(more)


def test_safetensors_need_no_torch(home):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_TORCH, "a-1.safetensors", "b-5.safetensors"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_limit_leaves_what_was_measured(run, home, monkeypatch):
    from fromage_cli.errors import ResourceError
    from fromage_cli.problem.conditions.budget import Budget

    calls = []

    def check(self):
        calls.append(1)
        if len(calls) > 1:
            raise ResourceError("The time limit was reached.", "Raise it.")

    monkeypatch.setattr(Budget, "check", check)
    code, out, _ = run("a-1.safetensors", "b-5.safetensors", "--json")
    result = json.loads(out)["result"]
    assert code == 7 and len(result["layers"]) == 1 and result["product"] is None
    assert result["missing"]["product"]["code"] == result["missing"]["log10_bound"]["code"] == "limit-reached"
    assert run("a-1.safetensors", "b-5.safetensors", "--json")[0] == 7


@pytest.mark.parametrize(("error", "code"), [("ResourceError", 7), ("NumericalError", 6)])
def test_what_keeps_the_function_part_from_being_had_leaves_the_layers(run, home, monkeypatch, error, code):
    from fromage_cli import errors
    from fromage_cli.diagnostics.distance import function

    def refuse(*_):
        raise getattr(errors, error)("It cannot be had.", "Do without.")

    monkeypatch.setattr(function, "function_distance", refuse)
    found, out, err = run("a-1.safetensors", "b-5.safetensors", "--batch", "network.py:batch", *given(), "--json")
    result = json.loads(out)["result"]
    assert found == code and len(result["layers"]) == 2 and result["product"] > 0 and "cannot be had" in err
    kind = "limit-reached" if code == 7 else "not-evaluated"
    assert result["missing"]["function_distance"] == {"code": kind, "reason": "It cannot be had"}
    assert result["missing"]["log10_bound"] == result["missing"]["function_distance"]


def test_what_is_said_of_the_second_is_said_to_be_of_it(run, home):
    scope = {}
    exec(MODEL, scope)
    save_file({f"net.{name}": value for name, value in scope["build"]().state_dict().items()}, "c-7.safetensors")
    _, _, err = run("c-7.safetensors", "c-7.safetensors", "--batch", "network.py:batch", *given(), "--json")
    assert "note: Removed the prefix" in err and "note: B: Removed the prefix" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("a-1.safetensors",), 2, "B"),
        (("a-1.safetensors", "nowhere"), 3, "does not exist"),
        (("a-1.safetensors", "other.safetensors"), 2, "No layer is left"),
        (("a-1.safetensors", "b-5.safetensors", "--include", "x*"), 2, "No layer is left"),
        (("a-1.safetensors", "b-5.safetensors", *given()), 2, "No batch"),
        (("a-1.safetensors", "vectors.safetensors", "--batch", "network.py:batch", *given()), 2, "No layer"),
        (("a-1.safetensors", "b-5.safetensors", "--batch", "network.py:batch"), 5, "activation"),
        (("a-1.safetensors", "b-5.safetensors", "--key", "model"), 2, "--key"),
        (("a-1.safetensors", "b-5.safetensors", "--optimizer-state", "x.pt"), 2, "no optimizer plays a part"),
    ],
)
def test_refusals(run, home, arguments, code, words):
    found, out, err = run(*arguments)
    assert found == code and words in " ".join(err.split()) and out == "" and "Traceback" not in err
