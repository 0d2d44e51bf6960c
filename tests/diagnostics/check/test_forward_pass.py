"""The forward pass among the commands that `check` asks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromage_cli.diagnostics.check.forward_pass import forward_result, spread
from fromage_cli.diagnostics.check.result import Skipped
from fromage_cli.missing import Missing, Why

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
MLP = SAMPLES / "mlp-2"
Run = Callable[..., tuple[int, str, str]]


def test_its_numbers_stand_beside_those_of_the_commands(run: Run) -> None:
    code, out, _ = run(str(MLP), "--json", "--val-batch", str(MLP / "batch.safetensors"))
    result = json.loads(out)["result"]
    found = result["forward_pass"]
    assert code == 0 and "forward-pass" in result["looked"] and "forward-pass" not in result["results"]
    assert result["looked"][-1] == "hypergrad" and result["results"]["hypergrad"]["val_rows"] == 512
    assert found["loss"] == pytest.approx(result["results"]["breakdown"]["loss"], rel=1e-6)
    assert found["held_out"]["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert found["guessing"]["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert [(one["after"], one["units"], one["dead"]) for one in found["units"]] == [("layers.0", 64, 0)]


def test_a_finding_of_it_decides(run: Run, tmp_path: Path) -> None:
    rows = load_file(MLP / "batch.safetensors")
    save_file(rows | {"y": rows["y"].flip(0)}, tmp_path / "wrong.safetensors")
    code, out, _ = run(str(MLP), "--batch", str(tmp_path / "wrong.safetensors"), "--json")
    envelope = json.loads(out)
    assert (code, envelope["result"]["verdict"]) == (0, "look")
    assert "no-better-than-guessing" in [one["code"] for one in envelope["findings"]]
    table = run(str(MLP), "--batch", str(tmp_path / "wrong.safetensors"), "--format", "tsv")[1]
    assert any(line.startswith("forward-pass\twarn\tno-better-than-guessing") for line in table.splitlines())


def test_held_out_rows_have_to_be_usable(run: Run, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3, 5), "y": torch.zeros(3, dtype=torch.int64)}, tmp_path / "other.safetensors")
    for name, code, words in (("nothing.pt", 3, "does not exist"), ("other.safetensors", 5, "The model failed")):
        left, out, err = run(str(MLP), "--val-batch", str(tmp_path / name), "--json")
        assert left == code and f"--val-batch {tmp_path / name}: {words}" in err
        assert json.loads(out)["result"]["forward_pass"] is None


def test_why_there_is_none() -> None:
    skipped = (Skipped("state", "no."), Skipped("forward-pass", "No network is given.\nGive one."))
    assert forward_result({}, skipped) == Missing(Why.NO_MODEL, "No network is given")


def test_a_few_earlier_checkpoints_are_spread_over_the_run() -> None:
    assert [*spread("abc")] == ["a", "b", "c"]  # type: ignore[arg-type]
    assert [*spread(range(11))] == [1, 3, 5, 8, 10]  # type: ignore[arg-type]
