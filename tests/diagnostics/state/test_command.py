"""The command as a user and a script meet it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Run = Callable[..., tuple[int, str, str]]
SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"


@pytest.mark.parametrize("sample", ["char-gpt", "convnet-sgd", "convnet-lars", "convnet-fromage", "mlp-2"])
def test_healthy_samples_have_no_warning(run: Run, sample: str) -> None:
    code, out, err = run(str(SAMPLES / sample), "--json")
    if code == 3:
        assert "holds no optimizer state" in err
        return
    envelope = json.loads(out)
    assert code == 0 and envelope["command"] == "state"
    assert not [one for one in envelope["findings"] if one["severity"] != "info"]


def test_what_a_script_reads(run: Run) -> None:
    result = json.loads(run(str(SAMPLES / "char-gpt"), "--json")[1])["result"]
    layer = next(one for one in result["layers"] if one["name"] == "blocks.0.mlp.0.weight")
    assert {"update_rms", "relative_update", "decay_share", "lost", "violations", "epsilon", "dead_rows"} <= set(layer)
    assert layer["lost"] is None and layer["epsilon"]["factor"] > 0.99
    assert [group["timescale"] for group in result["groups"]] == [pytest.approx(1 / (0.003 * 0.1)), None]
    assert result["totals"]["relative_update"] == pytest.approx(0.00494, rel=0.01)


def test_of_several_each_is_held_against_the_one_before(run: Run) -> None:
    _, out, _ = run(*sorted((SAMPLES / "char-gpt").glob("*.pt")), "--json")
    result = json.loads(out)["result"]
    assert [one["steps"] for one in result["continuity"]] == [300, 460]
    assert "too many steps" in result["continuity"][0]["missing"]["first_moments"]["reason"]
    assert result["rate_breaks"] == []


def test_the_cost_is_told_without_an_answer(run: Run) -> None:
    result = json.loads(run(str(SAMPLES / "char-gpt"), "--estimate", "--json")[1])["result"]
    assert set(result) == {"estimate"} and result["estimate"]["bytes"] > 10**7 and result["estimate"]["seconds"] > 0.0


def test_weights_alone_are_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, 2)}, tmp_path / "w.pt")
    code, out, err = run(str(tmp_path / "w.pt"))
    assert (code, out) == (3, "")
    assert "holds no optimizer state" in err and "optimizer.state_dict()" in err


def test_it_needs_no_torch() -> None:
    script = (
        "import sys, runpy\n"
        "try:\n    runpy.run_module('fromage_cli', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", script, "state", str(SAMPLES / "char-gpt"), "--json"]
    found = subprocess.run(command, capture_output=True, check=False)
    assert found.returncode == 0, found.stderr.decode()
