"""The command as a user and a script meet it."""

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.errors import ResourceError

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


def test_the_lars_sample_grows_and_its_output_layer_is_not_flagged(run):
    code, out, _ = run(SAMPLES / "convnet-lars", "--optimizer", "lars", "--json", "--fail-on", "warn")
    envelope = json.loads(out)
    assert (code, len(envelope["checkpoints"]), len(envelope["result"]["steps"])) == (0, 10, 10)
    assert [finding["layer"] for finding in envelope["findings"]] == [
        f"convolutions.{index}.weight" for index in range(3)
    ]
    layer = envelope["result"]["layers"][0]
    assert list(layer)[:4] == ["name", "kind", "shape", "parameters"]
    assert layer["invariance"].pop("verdict") == "untested"
    reasons = layer["invariance"].pop("missing")
    assert {name: reason["code"] for name, reason in reasons.items()} == dict.fromkeys(
        ("cosine", "response_double", "response_half"), "no-model"
    )
    assert set(layer["invariance"]) >= {"granularity", "cosine", "response_double", "response_half"}
    assert set(layer["invariance"].values()) == {None}
    assert layer["effective_learning_rate"] == [0.02] * 10  # declared beside the checkpoints


def test_the_decay_of_lars_has_a_law_where_it_is_decoupled(run):
    given = (SAMPLES / "convnet-lars", "--optimizer", "lars", "--weight-decay", ".001", "--json")
    coupled, decoupled = (json.loads(run(*given, *more)[1])["result"] for more in ((), ("--decoupled",)))
    missing = coupled["layers"][0]["missing"]["predicted_growth"]
    assert coupled["layers"][0]["predicted_growth"] is None
    assert missing["code"] == "no-formula" and "rescales its weight decay" in missing["reason"]
    assert decoupled["layers"][0]["predicted_growth"] == pytest.approx(math.log1p(0.02**2) / 2 - 0.02 * 0.001)
    assert "optimizer: the momentum is not known; 0 is taken." in run(*given, "--decoupled")[2]


def test_the_fromage_sample_does_not(run):
    code, out, _ = run(SAMPLES / "convnet-fromage", "--optimizer", "fromage", "--json", "--fail-on", "warn")
    assert (code, json.loads(out)["findings"]) == (0, [])


def test_settings_from_the_optimizers_state(run):
    result = json.loads(run(SAMPLES / "char-gpt", "--json")[1])["result"]
    assert (result["optimizer"], result["learning_rates"], result["steps"]) == ("adamw", [0.003] * 3, [100, 400, 860])
    assert "output.weight" not in [layer["name"] for layer in result["layers"]]  # tied


def test_the_settings_in_effect(run):
    settings = json.loads(run(SAMPLES / "char-gpt", "--json")[1])["settings"]
    assert (settings["optimizer"], settings["lr"], settings["betas"]) == ("adamw", 0.003, "0.9,0.95")
    assert (settings["weight_decay"], settings["steps_per_epoch"], settings["momentum"]) == (0.1, 43, None)
    given = ("--optimizer", "lars", "--lr", ".5", "--momentum", ".9", "--json")
    settings = json.loads(run(SAMPLES / "convnet-lars", *given)[1])["settings"]
    assert (settings["lr"], settings["momentum"], settings["decoupled"]) == (0.5, 0.9, False)


def test_what_is_configured_for_other_commands_is_no_error(run, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    save_file({"w": torch.ones(2, 2)}, tmp_path / "run/step-1.safetensors")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/pyproject.toml").write_text("[tool.fromage-diag]\nmomentum = 0.5\nlr = 0.1\ndecoupled = true\n")
    monkeypatch.chdir(tmp_path / "work")
    code, out, _ = run("../run", "--json")
    assert code == 0 and json.loads(out)["result"]["optimizer"] is None
    assert run("../run", "--optimizer", "sgd")[0] == 0
    assert run("../run", "--optimizer", "lion", "--momentum", ".9")[0] == 2


def test_tables(run):
    _, out, _ = run(SAMPLES / "mlp-2", "--format", "csv", "--include", "*.1.*")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["name"] == "layers.1.weight" and row["invariance_verdict"] == "untested"
    assert float(row["last_norm"]) / float(row["first_norm"]) == pytest.approx(float(row["first_to_last"]))
    _, out, _ = run(SAMPLES / "mlp-2", "--format", "csv", "--table", "summary")
    assert {"growing_steadily", "doubles_in"} < {row["name"] for row in csv.DictReader(io.StringIO(out))}
    _, out, _ = run(SAMPLES / "mlp-2", "--format", "csv", "--table", "steps", "--exclude", "*.0.*")
    assert [row["step"] for row in csv.DictReader(io.StringIO(out))] == ["0", "22", "110", "220", "440"]


MODEL = ("--model", f"{SAMPLES / 'models.py'}:convnet")


def test_the_layers_of_the_lars_sample_are_invariant_grow_and_follow_the_law(run):
    code, out, err = run(SAMPLES / "convnet-lars", "--optimizer", "lars", *MODEL, "--json", "--fail-on", "warn")
    envelope = json.loads(out)
    assert (code, err.count("note: batch")) == (0, 1)
    assert [finding["code"] for finding in envelope["findings"]] == ["invariant-layer-grows"] * 3
    *convolutions, output = envelope["result"]["layers"]
    for layer in convolutions:
        assert (layer["invariance"]["verdict"], layer["invariance"]["granularity"]) == ("invariant", "channel")
        assert layer["growth_per_step"] == pytest.approx(layer["predicted_growth"], rel=0.02)
        assert (layer["kind"], layer["dead_bias"]) == ("Conv2d", None)
    assert (output["kind"], output["invariance"]["verdict"], output["dead_bias"]) == ("Linear", "none", False)
    assert (envelope["problem"]["mode"], len(envelope["checkpoints"])) == ("auto", 10)
    assert envelope["tool"]["gradient_evaluations"] == 1


def test_the_layers_of_the_fromage_sample_are_invariant_and_do_not_grow(run):
    code, out, _ = run(SAMPLES / "convnet-fromage", "--optimizer", "fromage", *MODEL, "--json", "--fail-on", "warn")
    envelope = json.loads(out)
    assert (code, envelope["findings"]) == (0, [])
    verdicts = [layer["invariance"]["verdict"] for layer in envelope["result"]["layers"]]
    assert verdicts == ["invariant"] * 3 + ["none"]


def test_the_weights_of_a_checkpoint_on_another_machine_are_put_into_the_model(run):
    fsspec.filesystem("memory").put(f"{SAMPLES / 'convnet-lars'}/step-000000.safetensors", "/norms/step-0.safetensors")
    places = (SAMPLES / "convnet-lars/step-000000.safetensors", "memory://norms/step-0.safetensors")
    given = ("--batch", SAMPLES / "convnet-lars/batch.safetensors", "--optimizer", "lars", "--lr", "0.02")
    here, there = (json.loads(run(place, *MODEL, *given, "--json")[1])["result"]["layers"] for place in places)
    assert here == there and there[0]["invariance"]["verdict"] == "invariant"


def test_in_evaluation_behaviour_nothing_is_invariant(run):
    _, out, _ = run(SAMPLES / "convnet-lars", *MODEL, "--mode", "eval", "--format", "csv")
    assert {row["invariance_verdict"] for row in csv.DictReader(io.StringIO(out))} == {"none"}


def test_a_limit_leaves_layers_untested(run, monkeypatch):
    from fromage_cli.problem.conditions.budget import Budget

    monkeypatch.setattr(Budget, "check", late_refusal())
    code, out, err = run(SAMPLES / "convnet-lars", *MODEL, "--time-limit", "60", "--json")
    verdicts = [layer["invariance"]["verdict"] for layer in json.loads(out)["result"]["layers"]]
    assert code == 7 and verdicts[0] == "invariant" and verdicts[-1] == "untested" and "out of time" in err


def test_a_limit_on_reading(run, monkeypatch):
    from fromage_cli.problem.conditions.budget import Budget

    monkeypatch.setattr(Budget, "check", late_refusal())
    code, out, err = run(SAMPLES / "convnet-lars", "--time-limit", "60")
    assert (code, out) == (7, "") and "out of time" in err


def late_refusal():
    """A check that refuses from its twentieth call on."""
    calls = []

    def check(self):
        calls.append(1)
        if len(calls) >= 20:
            raise ResourceError("out of time")

    return check


def test_estimates(run):
    _, out, _ = run(SAMPLES / "convnet-lars", "--estimate", "--json")
    without = json.loads(out)["result"]["estimate"]
    assert without["gradients"] == 0 and 0 < without["seconds"] < 5 and without["bytes"] < 100e6
    _, out, _ = run(SAMPLES / "convnet-lars", *MODEL, "--estimate", "--json")
    assert json.loads(out)["result"]["estimate"]["gradients"] == 9


def test_names_that_the_model_does_not_train_are_left_out(run, tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)\n"
        "        self.a.weight.requires_grad_(False)\n"
        "        self.register_buffer('table', torch.ones(3, 3))\n"
        "    def forward(self, x):\n"
        "        return self.b(self.a(x))\n"
    )
    tensors = {"a.weight": torch.randn(4, 3), "a.bias": torch.zeros(4), "b.weight": torch.randn(2, 4)}
    save_file(
        {f"net.{name}": value for name, value in {**tensors, "b.bias": torch.zeros(2)}.items()}
        | {"net.table": torch.ones(3, 3)},
        tmp_path / "c.safetensors",
    )
    save_file({"x": torch.randn(6, 3), "y": torch.zeros(6, dtype=torch.long)}, tmp_path / "b.safetensors")
    _, out, _ = run(
        tmp_path / "c.safetensors", "--model", f"{tmp_path / 'model.py'}:Net", "--batch", tmp_path / "b.safetensors",
        "--json",
    )  # fmt: skip
    assert [layer["name"] for layer in json.loads(out)["result"]["layers"]] == ["net.b.weight"]


@pytest.mark.parametrize("arguments", [(), ("--optimizer", "sgd", "--estimate")])
def test_safetensors_need_no_torch(tmp_path, arguments):
    for step in (1, 2):
        save_file({"w": torch.ones(2, 3) * step}, tmp_path / f"step-{step}.safetensors")
    (tmp_path / "fromage.toml").write_text("learning_rate = 0.1\nsteps_per_epoch = 10\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_TORCH, ".", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_layers_that_changed_are_named(run, tmp_path):
    save_file({"w": torch.ones(2, 2), "h": torch.ones(2, 3)}, tmp_path / "step-1.safetensors")
    save_file({"w": torch.ones(2, 2), "h": torch.ones(2, 4)}, tmp_path / "step-2.safetensors")
    assert "Left out 1 layer that" in run(tmp_path, "--json")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "CKPT"),
        (("nowhere",), 3, "does not exist"),
        (("run", "--lr", ".1"), 2, "optimizer is unknown"),
        (("run", "--optimizer", "lbfgs"), 2, "lbfgs"),
        (("run", "--include", "nothing*"), 2, "No layer is left"),
        (("run", "--model", "x.py:f"), 3, "x.py"),
        (("run", "--batch", "b.npz", "--autocast"), 2, "--autocast"),
        (("run", "--momentum", "1"), 2, "--momentum"),
        (("run", "--betas", "2,3", "--optimizer", "lamb"), 2, "--betas"),
        (("run", "--betas", ".9,.95", "--optimizer", "sgd"), 2, "--betas is no setting of sgd"),
        (("run", "--lr", "-1"), 2, "--lr"),
        (("run", "--optimizer", "fromage", "--weight-decay", ".1"), 2, "Fromage has no weight decay"),
        (("run", "--optimizer", "lamb", "--decoupled"), 2, "changes nothing for lamb"),
    ],
)
def test_refusals(run, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_file({"w": torch.ones(2, 2)}, tmp_path / "run/step-1.safetensors")
    found, out, err = run(*arguments)
    assert found == code and words in err and out == ""


def test_keys_outside_of_the_table_beside_a_checkpoint_are_said_to_be_left_aside(run, tmp_path):
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "step-1.safetensors")
    (tmp_path / "fromage.toml").write_text("learning-rate = 0.5\n[tool.fromage-diag]\nmomentum = 0.9\n")
    code, _, err = run(tmp_path / "step-1.safetensors")
    assert code == 0
    assert err.count("'learning-rate' outside of it is not used") == 1
