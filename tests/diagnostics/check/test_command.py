"""`fromage-diag check` on the samples and on files that break its parts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
BATCH = str(SAMPLES / "mlp-2" / "batch.safetensors")
Run = Callable[..., tuple[int, str, str]]


def test_files_alone_answer(run: Run) -> None:
    code, out, _ = run(str(SAMPLES / "char-gpt"), "--json")
    result = json.loads(out)["result"]
    assert (code, result["verdict"], result["looked"]) == (0, "go", ["inspect", "state", "distance", "norms"])
    assert [one["command"] for one in result["skipped"]] == ["forward-pass", "breakdown", "suggest-lr", "sharpness"]
    assert result["forward_pass"] is None and result["missing"]["forward_pass"]["code"] == "no-model"
    assert {one["reason"] for one in result["skipped"]} == {
        "No network is given. Add --model file.py:build, or save a bundle in training (fromage-diag explain bundle)."
    }
    assert {"totals", "layers"} <= set(result["results"]["state"])


def test_with_a_network_more_commands_look(run: Run) -> None:
    result = json.loads(run(str(SAMPLES / "mlp-2"), "--batch", BATCH, "--json")[1])["result"]
    commands = ["inspect", "distance", "norms", "intrinsic-lr", "breakdown", "suggest-lr", "sharpness"]
    assert [*result["results"]] == commands and [one["command"] for one in result["skipped"]] == ["state"]
    assert result["looked"] == [*commands[:4], "forward-pass", *commands[4:]]
    assert result["forward_pass"]["guessing"]["ratio"] < 0.9
    assert {one["command"] for one in result["numbers"]} >= {"norms", "breakdown", "sharpness"}


def test_a_failure_stops(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.full((3, 3), float("nan"))}, tmp_path / "w.pt")
    code, out, _ = run(str(tmp_path / "w.pt"), "--json")
    assert (code, json.loads(out)["result"]["verdict"]) == (11, "stop")
    assert run(str(tmp_path / "w.pt"), "--fail-on", "never")[0] == 0


def test_a_network_that_does_not_fit_is_exit_5_after_what_could_be_judged(run: Run) -> None:
    code, out, err = run(str(SAMPLES / "char-gpt"), "--model", f"{SAMPLES / 'models.py'}:convnet", "--json")
    assert code == 5 and json.loads(out)["result"]["looked"] == ["inspect", "state", "distance", "norms"]
    assert "error:" in err


@pytest.mark.parametrize("name", ["nothing.pt"])
def test_nothing_to_judge_is_exit_3(run: Run, tmp_path: Path, name: str) -> None:
    assert run(str(tmp_path / name))[0] == 3


def test_the_cost_of_all_is_told(run: Run) -> None:
    result = json.loads(run(str(SAMPLES / "char-gpt"), "--estimate", "--json")[1])["result"]
    assert set(result) == {"estimate"} and result["estimate"]["seconds"] > 0.0


def test_what_does_not_fit_into_the_time_is_not_begun(run: Run) -> None:
    code, out, _ = run(str(SAMPLES / "mlp-16"), "--time-limit", "2s", "--json")
    result = json.loads(out)["result"]
    assert code in (0, 7) and "inspect" in result["looked"]
    assert all("limit" in one["reason"] for one in result["skipped"] if one["command"] in ("suggest-lr", "sharpness"))


def test_rules_of_the_project_change_the_verdict(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ckpt = str(SAMPLES / "convnet-sgd")
    assert json.loads(run(ckpt, "--json")[1])["result"]["verdict"] == "look"
    (tmp_path / "fromage.toml").write_text('[[rule]]\ncode = "norm-far-from-first"\nseverity = "off"\n')
    silenced = json.loads(run(ckpt, "--json")[1])
    assert silenced["result"]["verdict"] == "go" and silenced["settings"]["rules"][0]["severity"] == "off"
    (tmp_path / "fromage.toml").write_text(
        '[[rule]]\ncode = "mine"\nquantity = "norms.layers.last_norm"\nabove = 1\nseverity = "fail"\n'
    )
    code, out, _ = run(ckpt, "--json")
    assert code == 11 and {one["code"] for one in json.loads(out)["findings"] if one["severity"] == "fail"} == {"mine"}
    (tmp_path / "fromage.toml").write_text('[[rule]]\ncode = "norm-far-from-frist"\nseverity = "off"\n')
    code, _, err = run(ckpt)
    assert code == 2 and "norm-far-from-first" in err


def test_rules_beside_a_checkpoint_change_nothing(run: Run, tmp_path: Path) -> None:
    torch.save({"w": torch.full((3, 3), float("nan"))}, tmp_path / "w.pt")
    (tmp_path / "fromage.toml").write_text('[[rule]]\ncode = "tensor-not-finite"\nseverity = "off"\n')
    assert run(str(tmp_path / "w.pt"))[0] == 11


def test_against_a_baseline_only_what_is_new_counts(run: Run, tmp_path: Path) -> None:
    earlier, ckpt = tmp_path / "earlier.json", str(SAMPLES / "convnet-sgd")
    assert run(ckpt, "--fail-on", "warn", "-o", str(earlier))[0] == 10
    code, out, _ = run(ckpt, "--fail-on", "warn", "--baseline", str(earlier), "--json")
    result = json.loads(out)["result"]
    assert (code, result["verdict"], result["baseline"]["known"]) == (0, "go", ["norm-far-from-first"])
    assert run(ckpt, "--baseline", str(SAMPLES / "models.py"))[0] == 3


def test_what_one_command_read_of_a_run_the_next_does_not_read_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fromage_cli.checkpoints.reading import arrays, chunks, slots
    from fromage_cli.diagnostics.check.asking import Inputs
    from fromage_cli.terminal.answer import Answers

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 5))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2, 3):
        optimizer.zero_grad()
        model(torch.randn(20, 30)).square().mean().backward()
        optimizer.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, tmp_path / f"step-{step}.pt")
    read: list[str] = []
    for module in (arrays, chunks, slots):
        opened = module.opened
        monkeypatch.setattr(module, "opened", lambda path, opened=opened: (read.append(path.name), opened(path))[1])
    parts: dict[str, list[str]] = {}
    asked = Inputs.ask

    def ask(self: Inputs, name: str, **instead: object) -> Answers:
        before = len(read)
        answers = asked(self, name, **instead)
        parts[name] = read[before:]
        return answers

    monkeypatch.setattr(Inputs, "ask", ask)
    results = json.loads(run(str(tmp_path), "--json")[1])["result"]["results"]
    assert set(parts["inspect"]) == {"step-3.pt"} and set(parts["state"]) == {"step-1.pt", "step-2.pt", "step-3.pt"}
    assert sorted(parts["distance"]) == ["step-2.pt"] * 2 + ["step-3.pt"] * 2
    assert parts["norms"] == []
    norm = float(model.get_parameter("0.weight").detach().double().norm())
    assert results["norms"]["layers"][0]["norms"][-1] == pytest.approx(norm, rel=1e-12)
