"""`fromage-diag check` on the samples and on files that break its parts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
Run = Callable[..., tuple[int, str, str]]


def test_files_alone_answer(run: Run) -> None:
    code, out, _ = run(str(SAMPLES / "char-gpt"), "--json")
    result = json.loads(out)["result"]
    assert (code, result["verdict"], result["looked"]) == (0, "go", ["inspect", "state", "norms"])
    assert [one["command"] for one in result["skipped"]] == ["forward-pass", "sharpness", "breakdown"]
    assert result["forward_pass"] is None and result["missing"]["forward_pass"]["code"] == "no-model"
    assert {"totals", "layers"} <= set(result["results"]["state"])


def test_with_a_network_more_commands_look(run: Run) -> None:
    model, batch = f"{SAMPLES / 'models.py'}:char_gpt", str(SAMPLES / "char-gpt" / "batch.safetensors")
    out = run(str(SAMPLES / "char-gpt"), "--model", model, "--batch", batch, "--json")[1]
    looked = json.loads(out)["result"]["looked"]
    assert looked == [
        "inspect",
        "state",
        "norms",
        "forward-pass",
        "sharpness",
        "breakdown",
    ]


def test_a_failure_stops(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.full((3, 3), float("nan"))}, tmp_path / "w.pt")
    code, out, _ = run(str(tmp_path / "w.pt"), "--json")
    assert (code, json.loads(out)["result"]["verdict"]) == (11, "stop")
    assert run(str(tmp_path / "w.pt"), "--fail-on", "never")[0] == 0


def test_a_network_that_does_not_fit_is_exit_5_after_what_could_be_judged(run: Run) -> None:
    code, out, err = run(str(SAMPLES / "char-gpt"), "--model", f"{SAMPLES / 'models.py'}:convnet", "--json")
    assert code == 5 and json.loads(out)["result"]["looked"][:2] == ["inspect", "state"]
    assert "error:" in err


@pytest.mark.parametrize("name", ["nothing.pt"])
def test_nothing_to_judge_is_exit_3(run: Run, tmp_path: Path, name: str) -> None:
    assert run(str(tmp_path / name))[0] == 3


def test_the_cost_of_all_is_told(run: Run) -> None:
    result = json.loads(run(str(SAMPLES / "char-gpt"), "--estimate", "--json")[1])["result"]
    assert set(result) == {"estimate"} and result["estimate"]["seconds"] > 0.0
