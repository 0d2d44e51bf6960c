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
from safetensors.torch import load_file, save_file

from fromage_cli.cli import main

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "sample_checkpoints"
WITHOUT_TORCH = """
import sys
from fromage_cli.cli import main
try:
    main(["intrinsic-lr", *sys.argv[1:]])
except SystemExit as exit:
    assert not exit.code, exit.code
assert "torch" not in sys.modules
"""
MODEL = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))

def build():
    torch.manual_seed(0)
    return Network()

def batch():
    return {"x": torch.randn(64, 6), "y": torch.randint(3, (64,))}
"""
GIVEN = ("--model", "network.py:build", "--batch", "network.py:batch")
FROMAGE = ("--optimizer", "fromage", "--lr", ".01", "--weight-decay", ".1")
STORE = "memory://intrinsic"
SGD = ("--optimizer", "sgd", "--lr", ".1", "--weight-decay", "1e-3")
ADAMW = ("--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", ".1")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two checkpoints of a run of a small network, and its code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(MODEL)
    scope = {}
    exec(MODEL, scope)
    model = scope["build"]()
    for step in (10, 30):
        save_file(model.state_dict(), f"step-{step}.safetensors", metadata={"step": str(step)})
        with torch.no_grad():
            model.first.weight.add_(0.1 * torch.randn(5, 6))
    return tmp_path


def test_settings_from_the_optimizers_state(run):
    code, out, _ = run(SAMPLES / "char-gpt", "--json")
    envelope = json.loads(out)
    result = envelope["result"]
    assert code == 0 and (result["optimizer"], result["betas"], result["decay"]) == ("adamw", [0.9, 0.95], "decoupled")
    assert (result["steps"], result["steps_per_epoch"], result["tested"]) == ([100, 400, 860], 43, False)
    layer = result["layers"][0]
    assert list(layer)[:4] == ["name", "kind", "shape", "parameters"]
    assert layer["intrinsic_learning_rate"] == pytest.approx(3e-4)
    assert layer["relaxation_steps"] == pytest.approx(1 / 6e-4)
    assert layer["equilibrium_norm"] == pytest.approx(math.sqrt(0.003 / 0.2 * 61 * 64))
    assert 0.5 < layer["observed_rotation"] / layer["expected_rotation"] < 2.0
    assert "output.weight" not in [layer["name"] for layer in result["layers"]]  # tied
    settings = envelope["settings"]
    assert (settings["optimizer"], settings["lr"], settings["betas"]) == ("adamw", 0.003, "0.9,0.95")
    assert (settings["weight_decay"], settings["decoupled"], settings["steps_per_epoch"]) == (0.1, True, 43)
    assert len(envelope["checkpoints"]) == 3


def test_sgd_with_a_model(run, home):
    code, out, _ = run("step-30.safetensors", *SGD, *GIVEN, "--train-batch-size", "16", "--json", "--drop", "10")
    envelope = json.loads(out)
    first, last = envelope["result"]["layers"]
    assert code == 0 and envelope["result"]["train_batch_size"] == 16
    assert (first["verdict"], first["granularity"]) == ("invariant", "channel")
    assert first["equilibrium_norm"] > 0 and first["drop"]["at_once"] == pytest.approx(0.1)
    assert last["verdict"] == "none" and last["equilibrium_norm"] is None
    settings = envelope["settings"]
    assert (settings["lr"], settings["momentum"], settings["betas"], settings["train_batch_size"]) == (
        0.1,
        0.0,
        None,
        16,
    )
    assert envelope["problem"]["batch_size"] == 64 and envelope["tool"]["gradient_evaluations"] >= 2


def test_what_is_not_known_says_what_to_type(run, home):
    code, out, _ = run("step-30.safetensors", *GIVEN, "--optimizer", "adamw", "--json")
    missing = json.loads(out)["result"]["layers"][0]["missing"]
    words = json.dumps(missing)
    assert code == 0 and "--lr 0.001" in words and "--weight-decay 0.0005" in words


def test_the_rows_of_a_training_batch_may_be_declared(run, home):
    (home / "fromage.toml").write_text("train_batch_size = 16\n")
    code, out, _ = run("step-30.safetensors", *SGD, *GIVEN, "--json")
    assert code == 0 and json.loads(out)["result"]["train_batch_size"] == 16
    code, out, _ = run("step-30.safetensors", *SGD, *GIVEN, "--train-batch-size", "32", "--json")
    assert code == 0 and json.loads(out)["result"]["train_batch_size"] == 32


def test_code_declared_beside_the_checkpoint_needs_trust(run, home):
    (home / "run").mkdir()
    (home / "step-30.safetensors").rename(home / "run/step-30.safetensors")
    (home / "run/fromage.toml").write_text('model = "other.py:build"\nlearning_rate = 0.1\nweight_decay = 0.001\n')
    refused, _, err = run("run", "--optimizer", "sgd", "--json")
    assert refused == 4 and "may only name data" in err
    code, out, _ = run("run", "--optimizer", "sgd", "--trust", "--json")
    assert code == 0 and json.loads(out)["result"]["layers"][0]["weight_decay"] == 1e-3


def test_a_checkpoint_on_another_machine(run, home):
    fsspec.filesystem("memory").put("step-30.safetensors", "/intrinsic/step-30.safetensors")
    given = (*SGD, *GIVEN, "--train-batch-size", "16", "--json")
    here, there = (json.loads(run(f"{place}step-30.safetensors", *given)[1]) for place in ("", f"{STORE}/"))
    assert there["result"] == here["result"] and there["result"]["layers"][0]["equilibrium_norm"] > 0
    assert there["checkpoints"][0]["path"] == f"{STORE}/step-30.safetensors"


def test_tables(run, home):
    _, out, _ = run(".", *ADAMW, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["name"] for row in rows] == ["first.weight", "last.weight"] and float(rows[0]["observed_rotation"]) > 0
    _, out, _ = run(".", *ADAMW, "--format", "csv", "--table", "rotations", "--include", "first*")
    assert [(row["from_step"], row["to_step"]) for row in csv.DictReader(io.StringIO(out))] == [("10", "30")]
    _, out, _ = run(".", *ADAMW, "--format", "csv", "--table", "drop", "--drop", "3")
    assert {row["layer"] for row in csv.DictReader(io.StringIO(out))} == {"first.weight"}  # the last is not trained


def test_the_page_and_the_picture(run, home):
    pytest.importorskip("matplotlib")
    code, out, err = run(".", *ADAMW, "--format", "rich", "--drop", "10", "--plot", "drop.svg")
    text = " ".join(out.split())
    assert code == 0 and "No layer was tested for that." in text and "With the rate divided by 10" in text
    picture = Path("drop.svg").read_text()
    assert picture.startswith("<?xml") and "written to drop.svg" in err
    assert "step 30<" in picture and "step 10<" not in picture  # what "now" is


def test_a_picture_leaves_the_answer_with_every_checkpoint(run, home):
    pytest.importorskip("matplotlib")
    _, out, _ = run(".", *ADAMW, "--drop", "10", "--plot", "drop.svg", "--json")
    assert [checkpoint["step"] for checkpoint in json.loads(out)["checkpoints"]] == [10, 30]


def test_a_run_without_decay_is_told_beside_the_warning_that_nothing_was_tested(run, home):
    given = ("--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", "0", "--json")
    code, out, _ = run("step-10.safetensors", *given, "--fail-on", "warn")
    found = [(finding["code"], finding["severity"]) for finding in json.loads(out)["findings"]]
    assert code == 10 and found == [("scale-invariance-untested", "warn"), ("no-equilibrium", "info")]


def test_adam_with_coupled_decay_says_what_is_not_defined(run, home):
    given = ("--optimizer", "adam", "--lr", "1e-3", "--weight-decay", ".1", "--json")
    result = json.loads(run("step-10.safetensors", *given)[1])["result"]
    assert result["layers"][0]["equilibrium_norm"] is None
    assert result["layers"][0]["missing"]["equilibrium_norm"]["code"] == "no-formula"
    assert "no closed form" in result["layers"][0]["missing"]["equilibrium_norm"]["reason"]
    decoupled = json.loads(run("step-10.safetensors", *given, "--decoupled")[1])["result"]
    assert decoupled["layers"][0]["equilibrium_norm"] > 0


def test_a_limit_on_the_tests_is_told_beside_what_there_is(run, home, monkeypatch):
    from fromage_cli.errors import ResourceError
    from fromage_cli.problem.conditions.budget import Budget

    calls = []

    def check(self):
        calls.append(1)
        if len(calls) >= 5:
            raise ResourceError("out of time")

    monkeypatch.setattr(Budget, "check", check)
    code, out, err = run("step-30.safetensors", *SGD, *GIVEN, "--train-batch-size", "16", "--json")
    result = json.loads(out)["result"]
    assert code == 7 and "out of time" in err and len(result["layers"]) == 2
    missing = result["layers"][0]["missing"]["equilibrium_norm"]
    assert missing["code"] == "limit-reached" and "out of time" in missing["reason"]
    assert "--model" not in missing["reason"]


def test_a_layer_that_the_model_does_not_train_is_left_out(run, home):
    (home / "network.py").write_text(
        MODEL.replace("return Network()", "n = Network(); n.last.weight.requires_grad_(False); return n")
    )
    code, out, err = run("step-30.safetensors", *SGD, *GIVEN, "--train-batch-size", "16", "--json")
    assert code == 0 and [layer["name"] for layer in json.loads(out)["result"]["layers"]] == ["first.weight"]
    assert "Left out 1 layer that the model does not train: last.weight." in err
    assert run("step-30.safetensors", *SGD, *GIVEN, "--include", "last*")[0] == 2


def test_what_was_skipped_is_said_with_a_model_too(run, home):
    Path("step-40.safetensors").write_bytes(Path("step-30.safetensors").read_bytes()[:-9])
    assert "Skipped" in run("step-*.safetensors", *SGD, *GIVEN, "--train-batch-size", "16")[2]


def test_decoupled_decay_is_refused_for_an_optimizer_that_was_found(run, home):
    weight = torch.nn.Parameter(torch.ones(3, 3))
    rule = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
    weight.grad = torch.ones(3, 3)
    rule.step()
    torch.save({"model": {"w": weight.detach()}, "optimizer": rule.state_dict()}, "c.pt")
    code, _, err = run("c.pt", "--decoupled")
    assert code == 2 and "--decoupled changes nothing for sgd" in err
    assert run("c.pt", "--betas", ".9,.99")[0] == 2


def test_what_is_configured_for_other_commands_is_no_error(run, home, monkeypatch):
    for name in ("run", "work"):  # a file below the checkpoint's directory would be data beside it
        (home / name).mkdir()
    (home / "step-10.safetensors").rename(home / "run/step-10.safetensors")
    (home / "work/pyproject.toml").write_text("[tool.fromage-diag]\nmomentum = 0.5\ndecoupled = true\n")
    monkeypatch.chdir(home / "work")
    monkeypatch.setenv("FROMAGE_DIAG_BETAS", ".9,.95")
    code, out, _ = run("../run/step-10.safetensors", *SGD, "--json")
    result = json.loads(out)["result"]
    assert code == 0 and (result["momentum"], result["betas"], result["decay"]) == (0.5, None, "coupled")
    code, out, _ = run("../run/step-10.safetensors", *ADAMW, "--json")
    assert code == 0 and (json.loads(out)["result"]["momentum"], json.loads(out)["result"]["betas"]) == (
        None,
        [0.9, 0.95],
    )


def test_layers_that_changed_are_named(run, home):
    save_file({"w": torch.ones(2, 2), "h": torch.ones(2, 3)}, "run-step-1.safetensors")
    save_file({"w": torch.ones(2, 2), "h": torch.ones(2, 4)}, "run-step-2.safetensors")
    assert "Left out 1 layer that" in run("run-step-*.safetensors", *ADAMW, "--json")[2]


@pytest.mark.parametrize("more", [(), GIVEN])
def test_the_cost_is_told_beforehand(run, home, more):
    code, out, _ = run("step-10.safetensors", *SGD, *more, "--estimate", "--json")
    estimate = json.loads(out)["result"]["estimate"]
    assert code == 0 and estimate["bytes"] > 0 and estimate["seconds"] > 0
    assert (estimate["gradients"] > 0) == bool(more)


@pytest.mark.parametrize(("rule", "gradients"), [(SGD, 2), (ADAMW, 1)])
def test_the_cost_told_beforehand_is_that_of_the_run(run, home, rule, gradients):
    given = ("step-10.safetensors", *rule, *GIVEN, "--train-batch-size", "16", "--json")
    told = json.loads(run(*given, "--estimate")[1])["result"]["estimate"]["gradients"]
    tool = json.loads(run(*given)[1])["tool"]
    assert tool["gradient_evaluations"] == gradients and told == gradients + 4  # six forward passes a layer
    assert told == pytest.approx(gradients + tool["forward_evaluations"] / 3, rel=0.25)


def test_safetensors_need_no_torch(tmp_path):
    for step in (1, 2):
        save_file({"w": torch.ones(2, 3) * step}, tmp_path / f"step-{step}.safetensors")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_TORCH, ".", *ADAMW]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "CKPT"),
        (("nowhere", *ADAMW), 3, "does not exist"),
        (("step-10.safetensors",), 2, "No optimizer is known"),
        (("step-10.safetensors", "--optimizer", "lbfgs"), 2, "lbfgs"),
        (("step-10.safetensors", *ADAMW, "--include", "nothing*"), 2, "No layer is left"),
        (("step-10.safetensors", *ADAMW, "--drop", "1"), 2, "above 1"),
        (("step-10.safetensors", *ADAMW, "--plot", "x.svg"), 2, "--drop FACTOR"),
        (("step-10.safetensors", *ADAMW, "--drop", "2", "--plot", "x.gif"), 2, "extension"),
        (("step-10.safetensors", *ADAMW, "--decoupled"), 2, "changes nothing for adamw"),
        (("step-10.safetensors", *ADAMW, "--momentum", ".9"), 2, "no setting of adamw"),
        (("step-10.safetensors", *ADAMW, "--lr", "-1"), 2, "--lr"),
        (("step-10.safetensors", *FROMAGE), 2, "Fromage has no weight decay"),
        (("step-10.safetensors", *SGD, "--model", "network.py:build"), 2, "No batch"),
        (("step-10.safetensors", *SGD, "--steps-per-epoch", "0"), 2, "steps-per-epoch"),
        (("step-10.safetensors", *SGD, *GIVEN, "--autocast"), 2, "--autocast"),
    ],
)
def test_refusals(run, home, arguments, code, words):
    found, out, err = run(*arguments)
    assert found == code and words in " ".join(err.split()) and out == "" and "Traceback" not in err


@pytest.fixture
def cosine(tmp_path, monkeypatch):
    """Checkpoints of 100 steps of AdamW on noise under torch's cosine, and the norms of all steps."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.3 * torch.randn(30, 40, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=0.02, betas=(0.9, 0.95), weight_decay=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    norms = []
    for step in range(201):
        if step in (60, 100):
            held = {"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "step": step}
            torch.save({**held, "lr_schedulers": [scheduler.state_dict()]}, f"step-{step}.pt")
        norms.append(float(weight.detach().norm()))
        noise, unit = torch.randn(30, 40, generator=generator), weight.detach() / weight.detach().norm()
        weight.grad = noise - unit * (unit * noise).sum()
        optimizer.step()
        scheduler.step()
    return norms


def test_a_saved_scheduler_gives_a_forecast(run, cosine):
    code, out, err = run("step-60.pt", "step-100.pt", "--json")
    result = json.loads(out)["result"]
    (layer,) = result["layers"]
    assert code == 0 and "a cosine schedule over 200 steps, read from step-100.pt" in err
    settings = json.loads(out)["settings"]
    assert (settings["schedule"], settings["total_steps"]) == ("cosine", 200)
    assert result["schedule"]["factor"] == pytest.approx(0.5) and not result["schedule"]["constant"]
    for field in ("equilibrium_norm", "log_ratio", "steps_to_equilibrium"):
        assert layer[field] is None and layer["missing"][field]["code"] == "schedule"
    ahead = layer["forecast"]
    assert ahead["steps"][0] == 100 and ahead["steps"][-1] == 200 and 150 in ahead["steps"]
    assert ahead["norms"] == pytest.approx([cosine[step] for step in ahead["steps"]], rel=0.03)
    assert layer["expected_norms"] == pytest.approx(layer["norms"], rel=0.03)
    assert layer["norms"] == pytest.approx([cosine[60], cosine[100]], rel=1e-6)
    assert layer["angle_per_step"] == pytest.approx(ahead["angles_per_step"][0], rel=1e-6)
    assert layer["angle_per_step"] == pytest.approx(0.01 * math.sqrt(1200 * 0.1 / 1.9) / layer["norm"])
    given = ("--schedule", "cosine", "--total-steps", "200", "--json")
    assert json.loads(run("step-60.pt", "step-100.pt", *given)[1])["result"]["layers"] == result["layers"]


def test_the_forecast_as_a_page_and_as_tables(run, cosine):
    _, out, _ = run("step-60.pt", "step-100.pt", "--format", "rich")
    assert "‖W‖ at step 200" in out and "to the end of the run" not in out
    text = " ".join(run("step-60.pt", "step-100.pt", "--format", "rich", "-v")[1].split())
    assert "follows a cosine schedule over 200 steps" in text and "to the end of the run" in text
    assert "75 %" in text and "norms so far" in text
    rows = list(csv.DictReader(io.StringIO(run("step-100.pt", "--format", "csv", "--table", "forecast")[1])))
    assert list(rows[0]) == [
        "layer",
        "step",
        "norm",
        "effective_learning_rate",
        "angle_per_step",
        "norm_if_growing",
        "angle_if_growing",
    ]
    assert len(rows) == 21 and rows[-1]["step"] == "200"


def test_a_schedule_that_is_not_known_voids_what_it_must(run, cosine):
    saved = torch.load("step-100.pt")
    del saved["lr_schedulers"]
    torch.save(saved, "step-100.pt")
    envelope = json.loads(run("step-100.pt", "--json")[1])
    (layer,) = envelope["result"]["layers"]
    assert [finding["code"] for finding in envelope["findings"]][:2] == [
        "scale-invariance-untested",
        "schedule-unknown",
    ]
    assert {layer["missing"][field]["code"] for field in ("equilibrium_norm", "forecast", "log_ratio")} == {"schedule"}
    wrong = ("--schedule", "linear", "--total-steps", "150", "--json")
    codes = [finding["code"] for finding in json.loads(run("step-100.pt", *wrong)[1])["findings"]]
    assert codes[:2] == ["scale-invariance-untested", "schedule-mismatch"]
    code, _, err = run("step-100.pt", "--schedule", "linear")
    assert code == 2 and "--total-steps" in err
    Path("fromage.toml").write_text('schedule = "cosine"\ntotal_steps = 200\n')
    declared = json.loads(run("step-100.pt", "--json")[1])["result"]
    assert declared["schedule"]["total_steps"] == 200 and declared["layers"][0]["forecast"]["steps"][-1] == 200
    code, _, err = run("step-100.pt", "--warmup-steps", "300")
    assert code == 2 and "--warmup-steps is 300, but the run has 200 steps; expected fewer" in err


def test_sgd_without_a_model_takes_gradients_from_two_norms(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(0.1 * torch.randn(30, 40, generator=generator))
    optimizer = torch.optim.SGD([weight], lr=0.05, momentum=0.5, weight_decay=0.02)
    norms = []
    for step in range(401):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        if step in (100, 200):
            save_file({"w": weight.detach().clone()}, f"step-{step}.safetensors")
        norms.append(float(weight.detach().norm()))
        noise, unit = torch.randn(30, 40, generator=generator), weight.detach() / weight.detach().norm()
        weight.grad = (noise - unit * (unit * noise).sum()) / weight.detach().norm()
        optimizer.step()
    given = ("--optimizer", "sgd", "--lr", ".05", "--momentum", ".5", "--weight-decay", ".02")
    given = (*given, "--schedule", "linear", "--total-steps", "400", "--json")
    (layer,) = json.loads(run(".", *given)[1])["result"]["layers"]
    ahead = layer["forecast"]
    assert layer["calibrated"] and layer["learning_rate"] == pytest.approx(0.025)
    assert ahead["norms"] == pytest.approx([norms[step] for step in ahead["steps"]], rel=0.03)
    assert layer["missing"]["equilibrium_norm"]["code"] == "schedule"
    assert layer["expected_norms"] == [None, None]


SCHEDULE = ("--schedule", "cosine", "--total-steps", "60")
LARS = ("--optimizer", "lars", "--lr", ".1", "--momentum", "0", "--weight-decay", "1e-3")


@pytest.mark.parametrize("schedule", [(), SCHEDULE])
@pytest.mark.parametrize("rule", [SGD, (*SGD[:-1], "0"), LARS, (*LARS[:-1], "0"), ADAMW])
@pytest.mark.parametrize("zeros", [{30: 1}, {30: 5}, {10: 1}, {10: 5}, {10: 5, 30: 5}])
def test_channels_that_are_zero_are_left_out_and_said(run, home, rule, schedule, zeros):
    """At either checkpoint; where all of them are, no number is made up."""
    for step, count in zeros.items():
        weights = load_file(f"step-{step}.safetensors")
        weights["first.weight"][:count] = 0.0
        save_file(weights, f"step-{step}.safetensors", metadata={"step": str(step)})
    files = ("step-10.safetensors", "step-30.safetensors")
    given = (*rule, *schedule, *GIVEN, "--train-batch-size", "16")
    code, out, err = run(*files, *given, "--json", "--drop", "10")
    envelope = json.loads(out)
    first = envelope["result"]["layers"][0]
    assert code in (0, 1) and err.count("bug") == 0
    assert first["units_without_size"] == (zeros.get(30) == 1 and rule is not ADAMW)
    said = [each for each in envelope["findings"] if each["code"] == "units-without-size"]
    assert bool(said) == bool(first["units_without_size"])
    if zeros.get(30) == 5:
        assert first["norm"] == 0.0 and first["angle_per_step"] is None and first["forecast"] is None
        assert first["log_ratio"] is None and first["growth_per_step"] is None and first["drop"] is None
    elif schedule:
        assert first["angle_per_step"] > 0.0 and all(map(math.isfinite, first["forecast"]["norms"]))
        if zeros.get(10) == 5:
            assert first["expected_norms"] == [None, None] and first["expected_rotation"] is None
    code, _, err = run(*files, *given)
    assert code in (0, 1) and "Traceback" not in err


def test_a_layer_that_was_never_updated_has_no_law_and_every_command_says_so(capsys, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 16))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    model(torch.ones(4, 8)).square().mean().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    for command in ("intrinsic-lr", "norms", "inspect"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(tmp_path / "c.pt"), "--json"])
        assert not ended.value.code
        envelope = json.loads(capsys.readouterr().out)
        said = [finding for finding in envelope["findings"] if finding["code"] == "never-updated"]
        assert [(finding["layer"], finding["value"]) for finding in said] == [("0.weight", 1.0)]
        assert "buffers" in said[0]["hint"]
        if command == "intrinsic-lr":
            frozen, moved = envelope["result"]["layers"]
            assert frozen["equilibrium_norm"] is frozen["steps_to_equilibrium"] is None
            assert frozen["missing"]["equilibrium_norm"]["code"] == "nothing-moves"
            assert moved["equilibrium_norm"] is not None


def test_the_layers_of_two_optimizers_have_the_laws_of_their_own(run, tmp_path):
    model = torch.nn.Sequential(torch.nn.Embedding(8, 16), torch.nn.Linear(16, 16, bias=False))
    adamw = torch.optim.AdamW(model[0].parameters(), lr=3e-3, weight_decay=0.1)
    muon = torch.optim.Muon([model[1].weight], lr=0.02, weight_decay=0.2)
    model(torch.tensor([1, 2])).square().mean().backward()
    states = [one.step() or one.state_dict() for one in (adamw, muon)]
    torch.save({"model": model.state_dict(), "optimizers": states}, tmp_path / "c.pt")
    code, answer, _ = run(tmp_path / "c.pt", "--json")
    assert code == 0
    first, second = json.loads(answer)["result"]["layers"]
    assert [one["learning_rate"] for one in (first, second)] == [3e-3, 0.02]
    assert [one["weight_decay"] for one in (first, second)] == [0.1, 0.2]
    assert first["equilibrium_norm"] is not None
    assert "muon" in second["missing"]["equilibrium_norm"]["reason"]
