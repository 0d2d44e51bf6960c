"""The command as a user and a script meet it: what comes out, and how each thing that does not fit is refused."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.probes.hypergradients import continued, unrolled

Run = Callable[..., tuple[int, str, str]]

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))

def twice():
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3), nn.Dropout(0.2))

def plain():
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3))

def rows(seed, count=24):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=generator)
    noise = torch.randn(count, 3, generator=generator)
    return {"x": x, "y": (x[:, :3] + noise).argmax(1)}

def batch():
    return rows(1)

def batches():
    seed = 10
    while True:
        yield rows(seed := seed + 1, 8)

def validation():
    return rows(2, 40)

def ignored():
    found = rows(2, 40)
    found["y"][:20] = -100
    return found

def none():
    found = rows(2, 40)
    found["y"][:] = -100
    return found

class Vectors(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return (self.scale * x + self.shift)[:, :3]

def vectors():
    return Vectors()

def single():
    return rows(2, 1)

def wider():
    return {"x": torch.zeros(6, 9), "y": torch.zeros(6, dtype=torch.int64)}

def floats():
    return {"x": rows(1)["x"], "y": torch.zeros(24, 3)}

def loss(model, batch, ridge=0.0, unused=0.0, hidden=0.0):
    squares = sum(parameter.square().sum() for parameter in model.parameters())
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"]) + (ridge + float(hidden)) * squares

def needs(model, batch, ridge):
    return loss(model, batch, ridge)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model file and a checkpoint that AdamW trained for 20 steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(MODEL)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    x = torch.randn(24, 8)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    return tmp_path


GIVEN = ("run.pt", "--model", "network.py:build", "--batch", "network.py:batch")
VALIDATED = (*GIVEN, "--val-batch", "network.py:validation")
SHORT = (*VALIDATED, "--method", "unroll:6")


def answers(envelope: dict[str, Any], name: str, scope: str = "all") -> dict[str, dict[str, Any]]:
    """By method."""
    (found,) = (one for one in envelope["result"]["hyperparameters"] if (one["name"], one["scope"]) == (name, scope))
    return {one["method"]: one for one in found["answers"]}


def test_a_saved_run_is_continued(run: Run, home: Path) -> None:
    code, out, _ = run(*SHORT, "--json")
    envelope = json.loads(out)
    result = envelope["result"]
    assert code == 0 and (envelope["schema"], envelope["command"]) == ("fromage-diag/1", "hypergrad")
    assert (result["optimizer"], result["learning_rate"], result["steps"]) == ("adamw", 0.01, 6)
    assert (result["val_rows"], result["val_parts"], result["batches"]) == (40, 8, "each on all 24 rows")
    assert envelope["settings"]["mode"] == "train" and envelope["settings"]["label_smoothing"] is None
    listed = [(one["name"], one["scope"]) for one in result["hyperparameters"]]
    assert listed[0] == ("weight-decay", "all") and ("dropout", "all") in listed and ("learning-rate", "all") in listed
    decay, smoothing = answers(envelope, "weight-decay"), answers(envelope, "label-smoothing")
    assert list(decay) == ["unroll", "continued", "gauss-newton"]
    assert decay["unroll"]["horizon"] == 6 and decay["gauss-newton"]["horizon"] is None
    assert decay["unroll"]["log_gradient"] == pytest.approx(0.1 * decay["unroll"]["gradient"])
    assert decay["continued"]["gradient"] == pytest.approx(decay["unroll"]["gradient"], rel=0.05)
    assert smoothing["continued"]["gradient"] == pytest.approx(smoothing["unroll"]["gradient"], rel=0.05)
    assert answers(envelope, "dropout")["unroll"]["gradient"] is None
    assert answers(envelope, "dropout")["continued"]["stderr"] > 0.0
    (rate,) = (one for one in result["hyperparameters"] if (one["name"], one["scope"]) == ("learning-rate", "all"))
    assert rate["advice"] is rate["direction"] is None and list(answers(envelope, "learning-rate")) == ["unroll"]
    assert all(one["advice"] for one in result["hyperparameters"][:1])


def test_tables_and_the_page(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(*SHORT, "--format", "tsv")
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert code == 0 and list(rows[0])[:4] == ["name", "scope", "value", "advised_by"]
    assert "Traceback" not in err
    out = run(*SHORT, "--format", "rich", "-v")[1]
    assert "Validation loss" in out and "after 6 more steps, each on all 24 rows" in out
    assert "The learning rate is never advised on here" in out


def test_the_picture_is_written_beside_the_answer(run: Run, home: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, err = run(*SHORT, "--plot", "moves.svg")
    assert code == 0 and "the plot was written to moves.svg" in err
    picture = (home / "moves.svg").read_text()
    assert "run.pt" in picture and ">dropout<" in picture and ">label smoothing<" in picture
    assert run(*SHORT, "--plot", "moves.svg")[0] == 3, "an existing file is left alone"
    assert run(*SHORT, "--plot", "moves.pdf")[0] == 2


def test_batches_of_an_iterator_come_in_turn(run: Run, home: Path) -> None:
    given = ("run.pt", "--model", "network.py:build", "--batch", "network.py:batches")
    code, out, _ = run(*given, "--val-batch", "network.py:validation", "--method", "unroll:3", "--json")
    assert code == 0 and json.loads(out)["result"]["batches"] == "on 3 batches of 8 rows in turn"


def test_rows_of_a_training_batch_are_drawn(run: Run, home: Path) -> None:
    code, out, _ = run(*VALIDATED, "--method", "unroll:3", "--train-batch-size", "8", "--json")
    assert code == 0 and json.loads(out)["result"]["batches"] == "each on 8 of 24 rows, drawn without repeats"


def test_a_move_that_is_chance_is_repeated(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continued, "SMOOTH", 2.0)
    drawn = (*VALIDATED, "--method", "unroll:3", "--train-batch-size", "8")
    found = answers(json.loads(run(*drawn, "--json")[1]), "weight-decay")["continued"]
    assert found["draws"] == 4 and found["stderr"] > 0.0


def test_groups_are_moved_too(run: Run, home: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 3))
    matrices, vectors = ([each for each in model.parameters() if each.ndim == n] for n in (2, 1))
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    nn.functional.cross_entropy(model(torch.randn(9, 8)), torch.arange(9) % 3).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, home / "run.pt")
    envelope = json.loads(run(*SHORT, "--json")[1])
    whole, parts = answers(envelope, "weight-decay"), [answers(envelope, "weight-decay", f"group:{n}") for n in (0, 1)]
    for found in (whole, *parts):
        assert found["continued"]["gradient"] == pytest.approx(found["unroll"]["gradient"], rel=0.1)
    moved = sum(found["continued"]["log_gradient"] for found in parts)
    assert whole["continued"]["log_gradient"] == pytest.approx(moved, rel=0.05)
    advised = {one["scope"]: one["advised_by"] for one in envelope["result"]["hyperparameters"] if one["advice"]}
    assert advised["group:0"] == advised["group:1"] == "continued"


def test_dropout_of_each_module(run: Run, home: Path) -> None:
    """Each moved by itself; to first order, their derivatives are those of all together."""
    dropping = (*VALIDATED, "--model", "network.py:twice", "--method", "unroll:2", "--dropout-by-module", "--json")
    envelope = json.loads(run(*dropping)[1])
    whole, *parts = (answers(envelope, "dropout", scope)["continued"] for scope in ("all", "2.p", "4.p"))
    assert all(part["draws"] == 4 and part["stderr"] > 0.0 for part in parts)
    moved = sum(part["log_gradient"] for part in parts)
    assert whole["log_gradient"] == pytest.approx(moved, abs=0.3 * abs(moved) + whole["stderr"] * 0.2)
    plain = json.loads(run(*[each for each in dropping if each != "--dropout-by-module"])[1])
    assert "continued" not in answers(plain, "dropout", "2.p")


def test_numbers_of_the_users_loss(run: Run, home: Path) -> None:
    code, out, _ = run(*SHORT, "--loss", "network.py:loss", "--hyper", "ridge=0.01", "--json")
    envelope = json.loads(out)
    found = answers(envelope, "ridge")
    assert code == 0 and found["continued"]["gradient"] == pytest.approx(found["unroll"]["gradient"], rel=0.05)
    assert "label-smoothing" not in {one["name"] for one in envelope["result"]["hyperparameters"]}
    plain = json.loads(run(*SHORT, "--json")[1])["result"]["val_loss"]
    assert envelope["result"]["val_loss"] == pytest.approx(plain), "the validation loss has no regulariser"


def test_a_validation_loss_that_a_configuration_names_waits_for_a_yes(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "fromage.toml").write_text('[hypergrad]\nval-loss = "tripled.py:tripled"\n')
    (home / "tripled.py").write_text(
        "import pathlib\nfrom torch.nn import functional\npathlib.Path(__file__).with_name('ran').touch()\n"
        "def tripled(model, batch):\n    return 3.0 * functional.cross_entropy(model(batch['x']), batch['y'])\n"
    )
    code, out, err = run(*SHORT, "--json")
    plain = json.loads(out)["result"]["val_loss"]
    assert code == 0 and "data only; not used: hypergrad" in err
    for folder in ("runs", "inner"):
        (home / folder).mkdir()
    (home / "run.pt").rename(home / "runs" / "run.pt")
    monkeypatch.chdir(home / "inner")
    given = ("../runs/run.pt", *(word.replace("network.py", "../network.py") for word in SHORT[1:]))
    code, _, err = run(*given)
    assert code == 4 and f"val-loss = {home}/tripled.py:tripled" in err
    assert not (home / "ran").exists()
    code, out, _ = run(*given, "--trust", "--json")
    assert code == 0 and json.loads(out)["result"]["val_loss"] == pytest.approx(3.0 * plain)


def test_current_values_are_taken(run: Run, home: Path) -> None:
    values = ("--dropout", "0.4", "--label-smoothing", "0.1", "--weight-decay", "0.3", "--lr", "0.02")
    code, out, _ = run(*VALIDATED, "--method", "unroll:2", *values, "--json")
    held = {one["name"]: one["value"] for one in json.loads(out)["result"]["hyperparameters"] if one["scope"] == "all"}
    assert code == 0
    assert held == {"weight-decay": 0.3, "label-smoothing": 0.1, "dropout": 0.4, "learning-rate": 0.02}


def test_one_validation_row_has_no_standard_error(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--val-batch", "network.py:single", "--method", "unroll:2", "--json")
    found = answers(json.loads(out), "weight-decay")["continued"]
    assert code == 0 and found["stderr"] is None and found["missing"]["stderr"]["code"] == "too-few-rows"


def test_the_cost_beforehand(run: Run, home: Path) -> None:
    code, out, _ = run(*SHORT, "--estimate", "--json")
    assert code == 0 and json.loads(out)["result"]["estimate"]["seconds"] > 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (GIVEN, 2, "none were given"),
        ((*GIVEN, "--val-batch", "network.py:wider"), 5, "--val-batch network.py:wider: The model failed on the batch"),
        ((*GIVEN, "--val-batch", "missing.npz"), 3, "missing.npz"),
        (
            ("--model", "network.py:build", *GIVEN[3:], *VALIDATED[-2:], "--method", "unroll:6"),
            2,
            "--method unroll:6 takes training steps, and the optimizer or its learning rate is not known",
        ),
        ((*SHORT[:-1], "unrol:3"), 2, "Unknown --method 'unrol:3'"),
        ((*SHORT, "--label-smoothing", "1"), 2, "--label-smoothing"),
        ((*SHORT, "--hyper", "l1=0.1"), 2, "takes no arguments"),
        ((*SHORT, "--loss", "network.py:loss", "--hyper", "unused=0.5"), 5, "training loss does not depend on unused"),
        ((*SHORT, "--loss", "network.py:loss", "--hyper", "hidden=0.5"), 5, "training loss does not depend on hidden"),
        ((*SHORT, "--loss", "network.py:loss", "--hyper", "other=0.5"), 5, "got an unexpected argument 'other'"),
        ((*SHORT, "--loss", "network.py:needs", "--hyper", "ridge=0.5"), 2, "no number as its default"),
        ((*SHORT, "--loss", "network.py:loss", "--hyper", "dropout=0.1"), 2, "a name other than model, batch, dropout"),
        (
            ("--model", "network.py:build", *GIVEN[3:], *VALIDATED[-2:], "--method", "source:6"),
            2,
            "--method source:6 takes training steps, and the optimizer or its learning rate is not known",
        ),
        ((*SHORT, "--loss", "network.py:loss", "--label-smoothing", "0.1"), 2, "belongs to --loss cross-entropy"),
        (
            (
                *("run.pt", "--model", "network.py:build", "--batch", "network.py:floats", "--loss", "mse"),
                *("--val-batch", "network.py:floats", "--label-smoothing", "0.1"),
            ),
            2,
            "Label smoothing belongs to --loss cross-entropy, and the loss is mse",
        ),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, home: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert words in err and "Traceback" not in err


def test_a_network_that_drops_nothing_takes_no_dropout(run: Run, home: Path) -> None:
    given = ("--model", "network.py:plain", "--batch", "network.py:batch", "--val-batch", "network.py:validation")
    code, _, err = run(*given, "--dropout", "0.1")
    assert code == 2 and "nothing in this network drops" in err


def test_so_many_steps_that_memory_ends(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolled, "free_memory", lambda *_: 20_000)
    code, out, err = run(*VALIDATED, "--method", "unroll:400", "--json")
    envelope = json.loads(out)
    assert code == 7 and "Looking back through 400 steps" in err + out
    assert envelope["result"]["val_loss"] > 0.0, "what was found is printed"
    assert answers(envelope, "weight-decay")["unroll"]["gradient"] is None


def test_divergence_prints_what_was_found(run: Run, home: Path) -> None:
    code, out, err = run(*VALIDATED, "--lr", "1e6", "--json")
    envelope = json.loads(out)
    assert code == 6 and "loss is" in err + out
    assert envelope["result"]["val_loss"] > 0.0 and envelope["result"]["val_loss_after"] is None
    assert answers(envelope, "weight-decay")["unroll"]["gradient"] is None


@pytest.mark.parametrize("method", ["unroll:2", "gauss-newton", "delta-stn"])
def test_losses_without_numbers_of_their_own(run: Run, home: Path, method: str) -> None:
    """Squared errors: only weight decay and dropout are there to be moved."""
    floats = ("run.pt", "--model", "network.py:build", "--batch", "network.py:floats", "--loss", "mse")
    code, out, _ = run(*floats, "--val-batch", "network.py:floats", "--method", method, "--json")
    named = {one["name"] for one in json.loads(out)["result"]["hyperparameters"] if one["direction"]}
    assert code == 0 and named == {"weight-decay", "dropout"}
    assert run(*SHORT[:-2], "--loss", "network.py:loss", "--method", "unroll:2")[0] == 0


@pytest.mark.parametrize("method", ["unroll:2", "gauss-newton", "delta-stn"])
def test_validation_rows_without_targets(run: Run, home: Path, method: str) -> None:
    code, out, _ = run(*GIVEN, "--val-batch", "network.py:ignored", "--method", method, "--json")
    assert code == 0 and json.loads(out)["result"]["val_parts"] == 4


def test_validation_rows_of_which_none_has_a_target(run: Run, home: Path) -> None:
    code, out, err = run(*GIVEN, "--val-batch", "network.py:none")
    assert (code, out) == (5, "") and "target" in err


def test_nothing_to_move(run: Run, home: Path) -> None:
    floats = ("--model", "network.py:plain", "--batch", "network.py:floats", "--loss", "mse")
    for method in ("gauss-newton", "delta-stn"):
        code, out, err = run(*floats, "--val-batch", "network.py:floats", "--method", method, "--format", "rich")
        assert code == 0 and "There is nothing to move" in out + err


def test_a_network_of_vectors_has_no_layer_for_condition_numbers(run: Run, home: Path) -> None:
    given = ("--model", "network.py:vectors", *GIVEN[3:], *VALIDATED[-2:], "--method", "delta-stn", "--json")
    code, out, _ = run(*given, "--label-smoothing", "0.1")
    assert code == 0 and json.loads(out)["result"]["conditioning"] is None


def test_an_optimizer_that_is_not_differentiated_still_moves(run: Run, home: Path) -> None:
    code, out, _ = run(*VALIDATED, "--optimizer", "lamb", "--lr", "0.01", "--method", "unroll:2", "--json")
    result = json.loads(out)["result"]
    assert code == 0 and abs(result["val_loss_after"] - result["val_loss"]) > 1e-4
    assert answers(json.loads(out), "label-smoothing")["unroll"]["gradient"] is None


def test_what_the_steps_leave_out_is_said(run: Run, home: Path) -> None:
    given = (*VALIDATED, "--method", "unroll:2")
    assert "moments" not in run(*given)[2]
    assert (
        "so the steps begin with moments of 0"
        in run(*given, "--optimizer-state", "none", "--optimizer", "adamw", "--lr", "0.1")[2]
    )
    several = ("run.pt", "--model", "network.py:build", "--batch", "network.py:batches", *VALIDATED[-2:])
    assert "not in 4 rows" in run(*several, "--method", "unroll:2", "--train-batch-size", "4")[2]


def test_in_evaluation_mode_nothing_drops(run: Run, home: Path) -> None:
    code, out, _ = run(*SHORT, "--mode", "eval", "--json")
    assert code == 0 and "dropout" not in {one["name"] for one in json.loads(out)["result"]["hyperparameters"]}


def test_a_time_limit_prints_what_was_found(run: Run, home: Path) -> None:
    code, out, err = run(*VALIDATED, "--method", "unroll:100000", "--time-limit", "12", "--json")
    envelope = json.loads(out)
    assert code == 7 and "time limit" in err + out
    assert envelope["result"]["val_loss"] > 0.0
