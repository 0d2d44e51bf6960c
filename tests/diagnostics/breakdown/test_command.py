"""The command as a user and a script meet it: what comes out, and how each thing that does not fit is refused."""

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
Run = Callable[..., tuple[int, str, str]]

MODEL = """
import torch
from torch import nn

def build(width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 3))

def batch():
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(20, 8, generator=generator), "y": torch.randint(3, (20,), generator=generator)}

def vector_loss(model, batch):
    return model(batch["x"])

def cubic(model, batch):
    return model(batch["x"]).pow(3).abs().mean()

def total_and_count(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum"), len(batch["y"])
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model file, its weights and a batch file, that is also the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(MODEL)
    scope: dict[str, Any] = {}
    exec(MODEL, scope)
    save_file(scope["build"]().state_dict(), tmp_path / "weights.safetensors")
    save_file(scope["batch"](), tmp_path / "data.safetensors")
    return tmp_path


GIVEN = ("weights.safetensors", "--model", "network.py:build", "--batch", "data.safetensors")


@pytest.mark.parametrize("name", ["mlp-2", "mlp-16", "resmlp-16"])
def test_a_sample_needs_nothing_but_its_name(run: Run, name: str) -> None:
    code, out, err = run(SAMPLES / name, "--json", "--eta", "1e-3:1e-1:5")
    envelope = json.loads(out)
    assert code == 0
    assert (envelope["schema"], envelope["command"]) == ("fromage-diag/1", "breakdown")
    result = envelope["result"]
    assert len(result["layers"]) == int(name.rpartition("-")[2])
    assert result["depth"]["count"] == result["depth"]["path"] == len(result["layers"])
    assert (result["depth"]["effective"] < len(result["layers"])) == (name == "resmlp-16")
    assert envelope["tool"]["gradient_evaluations"] == 7
    assert envelope["problem"]["layer_count"] == len(result["layers"])
    assert envelope["settings"]["eta"] == "1e-3:1e-1:5"
    assert "highest complete step" in err


def test_the_main_table_has_the_layers_in_model_order(run: Run) -> None:
    code, out, _ = run(SAMPLES / "mlp-2", "--eta", ".01,.1", "--format", "tsv")
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert code == 0
    assert [row["name"] for row in rows] == ["layers.0.weight", "layers.1.weight"]
    assert "breakdown" not in rows[0]


def test_the_curve_is_a_table_of_its_own(run: Run) -> None:
    _, out, _ = run(SAMPLES / "mlp-2", "--eta", ".01,.1", "--format", "csv", "--table", "curve")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["layer"], row["eta"]) for row in rows][:2] == [("layers.0.weight", "0.01"), ("layers.0.weight", "0.1")]


def test_a_model_a_batch_and_weights_of_ones_own(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--json", "--eta", ".01,.1")
    assert code == 0
    assert [layer["name"] for layer in json.loads(out)["result"]["layers"]] == ["0.weight", "2.weight"]


def test_a_factory_has_weights_of_its_own(run: Run, home: Path) -> None:
    given = ("--model", "network.py:build", "--batch", "network.py:batch", "--json", "--eta", ".01,.1")
    code, out, _ = run(*given)
    from_file = json.loads(run(*GIVEN, "--json", "--eta", ".01,.1")[1])
    assert code == 0
    assert json.loads(out)["checkpoints"] == []
    assert json.loads(out)["result"]["layers"] == from_file["result"]["layers"]


def test_micro_batches_a_loss_with_its_count_and_float64_agree(run: Run, home: Path) -> None:
    plain = json.loads(run(*GIVEN, "--json", "--eta", ".01,.1", "--dtype", "float64")[1])["result"]
    given = (*GIVEN, "--json", "--eta", ".01,.1", "--dtype", "float64")
    split = json.loads(run(*given, "--micro-batch", "7", "--loss", "network.py:total_and_count")[1])["result"]
    for first, second in zip(plain["layers"], split["layers"], strict=True):
        assert second["breakdown"] == pytest.approx(first["breakdown"], rel=1e-9)


def test_the_estimate_measures_nothing_else(run: Run) -> None:
    code, out, _ = run(SAMPLES / "mlp-2", "--estimate", "--json")
    estimate = json.loads(out)["result"]["estimate"]
    assert code == 0
    assert estimate["gradients"] == 17 + 2
    assert estimate["seconds"] > 0
    assert estimate["bytes"] > 0


def test_a_time_limit_ends_with_what_was_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fromage_cli.problem.conditions import budget

    class Clock:
        """A second passes at every look."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 1
            return started + self.seconds

    started = time.monotonic()
    monkeypatch.setattr(budget, "time", Clock())
    code, out, _ = run(SAMPLES / "mlp-2", "--time-limit", "10", "--json")
    envelope = json.loads(out)
    assert code == 7
    assert envelope["status"] == "error"
    assert envelope["error"]["code"] == "resources"
    assert 0 < len(envelope["result"]["etas"]) < 17
    assert len(envelope["result"]["layers"][0]["breakdown"]) == len(envelope["result"]["etas"])


def test_findings_gate_a_job(run: Run) -> None:
    """A grid that begins too late does; a gradient that breaks down early is no verdict."""
    given = (SAMPLES / "mlp-16", "--eta", "1e-2:1:3", "--format", "tsv")
    assert (run(*given)[0], run(*given, "--fail-on", "warn")[0]) == (0, 10)
    finer = (SAMPLES / "mlp-16", "--eta", "1e-4:1:9", "--format", "tsv")
    assert run(*finer, "--fail-on", "warn")[0] == 0


def test_what_overflows_is_null_and_named(run: Run) -> None:
    code, out, _ = run(SAMPLES / "mlp-16", "--eta", "1,1e10,1e30", "--json")
    envelope = json.loads(out)
    assert code == 0
    assert {"path": "result.losses[2]", "value": "nan"} in envelope["nonfinite"] or {
        "path": "result.losses[2]",
        "value": "inf",
    } in envelope["nonfinite"]
    assert envelope["result"]["losses"][2] is None


def test_the_checkpoint_is_never_written_to(run: Run, home: Path) -> None:
    before = (home / "weights.safetensors").read_bytes()
    run(*GIVEN)
    assert (home / "weights.safetensors").read_bytes() == before


MODEL_GIVEN = ("--model", "network.py:build")
BATCH_GIVEN = ("--batch", "data.safetensors")
REFUSED_AS_GIVEN: dict[str, tuple[str, ...]] = {
    "wrong shape": ("weights.safetensors", *MODEL_GIVEN, "--model-arg", "width=32", *BATCH_GIVEN),
    "no such checkpoint": ("missing.safetensors", *MODEL_GIVEN, *BATCH_GIVEN),
    "no such batch": ("weights.safetensors", *MODEL_GIVEN, "--batch", "missing.npz"),
    "No batch": ("weights.safetensors", *MODEL_GIVEN),
    "nothing at all": (),
    "no such factory": ("weights.safetensors", "--model", "network.py:biuld", *BATCH_GIVEN),
    "no such argument": ("weights.safetensors", *MODEL_GIVEN, "--model-arg", "depth=3", *BATCH_GIVEN),
    "a loss that is no scalar": (*GIVEN, "--loss", "network.py:vector_loss"),
    "unknown loss": (*GIVEN, "--loss", "crossentropy"),
    "wrong grid": (*GIVEN, "--eta", "1:0:5"),
    "nothing to move": (*GIVEN, "--include", "none*"),
    "no such device": (*GIVEN, "--device", "cuda:99"),
    "unknown flag": (*GIVEN, "--etta", "1"),
}


def refused_batch(name: str, home: Path) -> tuple[str, ...]:
    x, y = torch.randn(20, 8), torch.randint(3, (20,))
    tensors = {
        "label out of range": {"x": x, "y": torch.full((20,), 3)},
        "wrong features": {"x": torch.randn(20, 9), "y": y},
        "unknown tensor": {"pixels": x, "y": y},
        "no target": {"x": x},
    }[name]
    save_file(tensors, home / "refused.safetensors")
    return "weights.safetensors", *MODEL_GIVEN, "--batch", "refused.safetensors"


def refused_weights(name: str, home: Path) -> tuple[str, ...]:
    weights = {"0.weight": torch.zeros(16, 8), "0.bias": torch.zeros(16), "2.weight": torch.zeros(3, 16)}
    path = home / "refused.safetensors"
    if name == "missing key":
        save_file(weights, path)
    elif name == "NaN weights":
        save_file({**weights, "2.bias": torch.full((3,), float("nan"))}, path)
    elif name == "empty file":
        path.write_bytes(b"")
    elif name == "truncated file":
        path.write_bytes((home / "weights.safetensors").read_bytes()[:-100])
    else:
        path.mkdir(exist_ok=True)
    return str(path.name), *MODEL_GIVEN, *BATCH_GIVEN


def refused(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    """Six clear lines without a traceback, and the same as one envelope where JSON is asked for."""
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 6
    as_json, out, _ = run(*arguments, "--json")
    envelope = json.loads(out)
    assert (as_json, envelope["status"]) == (code, "error")
    assert set(envelope["error"]) == {"code", "message", "hint"}


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("missing key", 5, "2.bias"),
        ("NaN weights", 6, "NaN"),
        ("empty file", 3, "empty"),
        ("truncated file", 3, "bytes"),
        ("directory without weights", 3, "refused.safetensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(run: Run, home: Path, name: str, code: int, words: str) -> None:
    refused(run, refused_weights(name, home), code, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("label out of range", "3"),
        ("wrong features", "forward"),
        ("unknown tensor", "pixels"),
        ("no target", "target"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(run: Run, home: Path, name: str, words: str) -> None:
    refused(run, refused_batch(name, home), 5, words)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("wrong shape", 5, "shapes differ"),
        ("no such checkpoint", 3, "missing.safetensors"),
        ("no such batch", 3, "missing.npz"),
        ("No batch", 2, "--batch"),
        ("nothing at all", 2, "Neither a checkpoint nor a model"),
        ("no such factory", 3, "build"),
        ("no such argument", 5, "width"),
        ("a loss that is no scalar", 5, "scalar"),
        ("unknown loss", 2, "cross-entropy"),
        ("wrong grid", 2, "MIN < MAX"),
        ("nothing to move", 5, "--include"),
        ("no such device", 2, "CUDA"),
        ("unknown flag", 2, "--eta"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, home: Path, name: str, code: int, words: str) -> None:
    refused(run, REFUSED_AS_GIVEN[name], code, words)


def test_a_checkpoint_of_100_megabytes_from_another_directory(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    source = tmp_path / "project"
    source.mkdir()
    (source / "network.py").write_text(
        MODEL.replace("nn.Linear(8, width)", "nn.Linear(8, width), nn.Linear(width, width)")
    )
    weights = {
        "0.weight": torch.randn(5000, 8),
        "0.bias": torch.zeros(5000),
        "1.weight": torch.randn(5000, 5000) / 70,
        "1.bias": torch.zeros(5000),
        "3.weight": torch.randn(3, 5000) / 70,
        "3.bias": torch.zeros(3),
    }
    save_file(weights, source / "large.safetensors")
    assert (source / "large.safetensors").stat().st_size > 1e8
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    network = source / "network.py"
    given = ("--model", f"{network}:build", "--model-arg", "width=5000", "--batch", f"{network}:batch")
    code, out, _ = run(source / "large.safetensors", *given, "--eta", ".001,.01", "--json")
    assert code == 0
    assert [layer["shape"] for layer in json.loads(out)["result"]["layers"]] == [[5000, 8], [5000, 5000], [3, 5000]]


def test_several_batches_together_and_each_alone(run: Run, home: Path) -> None:
    (home / "loader.py").write_text(
        "import torch\n"
        "def batches():\n"
        "    generator = torch.Generator().manual_seed(0)\n"
        "    while True:\n"
        "        yield torch.randn(10, 8, generator=generator), torch.randint(3, (10,), generator=generator)\n"
        "def three():\n"
        "    generator = torch.Generator().manual_seed(0)\n"
        "    drawn = [(torch.randn(10, 8, generator=generator), torch.randint(3, (10,), generator=generator))\n"
        "             for _ in range(3)]\n"
        "    return tuple(torch.cat(part) for part in zip(*drawn))\n"
    )
    given = ("weights.safetensors", "--model", "network.py:build", "--eta", ".01,.1,1", "--json")
    code, out, _ = run(*given, "--batch", "loader.py:batches", "--batches", "3")
    several = json.loads(out)
    whole = json.loads(run(*given, "--batch", "loader.py:three")[1])
    assert code == 0
    assert several["problem"]["batch_size"] == 30
    assert several["result"]["loss"] == pytest.approx(whole["result"]["loss"], rel=1e-6)
    for first, second in zip(several["result"]["layers"], whole["result"]["layers"], strict=True):
        assert first["breakdown"] == pytest.approx(second["breakdown"], rel=1e-4)
    alone = several["result"]["batches"]
    assert len(alone) == 3
    first_alone = json.loads(run(*given, "--batch", "loader.py:batches")[1])["result"]
    assert alone[0]["loss"] == pytest.approx(first_alone["loss"])
    assert alone[0]["trust_eta"] == pytest.approx(first_alone["trust_eta"])
    assert first_alone["batches"] == []
    assert several["tool"]["gradient_evaluations"] == pytest.approx(2 * whole["tool"]["gradient_evaluations"])
    refused(run, ("weights.safetensors", *MODEL_GIVEN, "--batch", "data.safetensors", "--batches", "2"), 2, "iterator")


@pytest.mark.parametrize("sample", ["mlp-2", "resmlp-16"])
def test_weights_read_again_give_the_same_curve(run: Run, sample: str) -> None:
    given = (SAMPLES / sample, "--eta", "1e-3:1e-1:3", "--json")
    kept = json.loads(run(*given)[1])["result"]
    assert json.loads(run(*given, "--reload")[1])["result"] == kept


def test_weights_cannot_be_read_again_without_a_checkpoint(run: Run, home: Path) -> None:
    refused(run, ("--model", "network.py:build", "--batch", "data.safetensors", "--reload"), 2, "--reload")
