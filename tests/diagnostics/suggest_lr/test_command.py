"""The command as a user and a script meet it: what comes out, and how each thing that does not fit is refused."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fromage_cli.cli import main
from fromage_cli.probes.cost import Cost

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
Run = Callable[..., tuple[int, str, str]]

MODEL = """
import torch
from torch import nn

def build(width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 3))

def drawn():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 8, generator=generator)
    return {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}

def row():
    return {name: rows[:1] for name, rows in batch().items()}

def batches():
    generator = torch.Generator().manual_seed(1)
    while True:
        x = torch.randn(20, 8, generator=generator)
        yield {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}

def nothing(model, batch):
    return model(batch["x"]).sum() * float("nan")

def flat(model, batch):
    return -model(batch["x"]).square().mean()
"""
GIVEN = ("--model", "network.py:build", "--batch", "network.py:batch", "--probe", "none")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model file that is also the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(MODEL)
    return tmp_path


def test_a_sample_with_an_optimizer_state_needs_nothing_else(run: Run) -> None:
    code, out, err = run(SAMPLES / "char-gpt", "--model", SAMPLES / "models.py:char_gpt", "--json", "--probe", "none")
    envelope = json.loads(out)
    result = envelope["result"]
    assert code == 0
    assert (envelope["schema"], envelope["command"]) == ("fromage-diag/1", "suggest-lr")
    assert (result["optimizer"]["name"], result["optimizer"]["current_learning_rate"]) == ("adamw", 0.003)
    assert result["optimizer"]["current_ratio"] == pytest.approx(0.003 / result["limit"]["learning_rate"])
    assert result["limit"]["relation"] == "crossing" and result["limit"]["estimator"] == "measured-sum"
    assert [group["tensors"] for group in result["optimizer"]["groups"]] == [10, 18]
    assert [each["name"] for each in result["estimates"]] == [
        "lemma2-count", "lemma2-path", "lemma2-effective", "measured", "measured-sum",
        "critical", "critical-independent", "sharpness", "typical",
    ]  # fmt: skip
    assert result["stability"]["ratio"] < 1.0 and "rate-not-stable" not in str(envelope["findings"])
    assert set(result["layers"][0]) >= {"name", "kind", "shape", "parameters", "cosine", "cosine_stderr", "trust_eta"}
    assert any(finding["code"] == "rate-above-limit" for finding in envelope["findings"])
    assert "with the moments in the checkpoint" in err
    tool = envelope["tool"]
    assert tool["gradient_evaluations"] + tool["forward_evaluations"] / 3 <= 40 and tool["hvp_evaluations"] <= 1 + 20


def test_the_main_table_has_the_estimates(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--optimizer", "sgd", "--format", "tsv")
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert code == 0
    assert list(rows[0]) == ["name", "eta", "learning_rate", "assumption", "gradient_evaluations"]
    for table, column in (
        ("layers", "trust_eta"),
        ("points", "excess"),
        ("summary", "unit"),
        ("groups", "index"),
        ("alternatives", "name"),
    ):
        code, out, _ = run(*GIVEN, "--optimizer", "sgd", "--format", "csv", "--table", table)
        assert code == 0 and (column in out or table in ("groups", "alternatives"))


def test_the_page_gives_both_answers(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--optimizer", "sgd", "--momentum", ".9", "--lr", "100", "--format", "rich")
    text = " ".join(out.split())
    assert code == 0
    assert "SGD at 100" in text and "One step from here, as a learning rate of SGD" in text
    assert "Rate to train at not known short runs tell it: leave --probe none out" in text
    assert "Stable at 100 no only up to" in text and "What now: Lower the rate below" in text


def test_a_value_alone_can_be_taken_by_a_script(run: Run, home: Path) -> None:
    whole = json.loads(run(*GIVEN, "--optimizer", "sgd", "--json")[1])["result"]
    code, out, err = run(*GIVEN, "--optimizer", "sgd", "--value", "limit")
    assert code == 0 and out.strip() == f"{whole['limit']['learning_rate']:.6g}"
    assert "It is no rate to train at" in err and "--value recommended" in err
    code, out, _ = run(*GIVEN, "--optimizer", "fromage", "--value", "limit", "-o", "rate.txt")
    assert code == 0 and out == ""
    relative = json.loads(run(*GIVEN, "--optimizer", "fromage", "--json")[1])["result"]["limit"]["eta"]
    assert float((home / "rate.txt").read_text()) == pytest.approx(relative, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "batch", "accepted", "ends"),
    [
        ("drawn", "batches", 1.0, 0),
        ("drawn", "batches", 0.0, 10),
        ("drawn", "batch", 1.0, 10),
        ("build", "batches", 1.0, 10),
    ],
)
def test_a_recommendation_from_new_weights_and_whole_batches_ends_in_zero_where_little_is_lost_else_in_ten(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, model: str, batch: str, accepted: float, ends: int
) -> None:
    monkeypatch.setattr("fromage_cli.theory.rate_calibration.RELIABLE", accepted)
    data = ("--model", f"network.py:{model}", "--batch", f"network.py:{batch}")
    given = (*data, "--optimizer", "adamw", "--probe-budget", "276")
    told = json.loads(run(*given, "--json")[1])["result"]["recommended"]
    assert (told["estimator"], told["reliable"]) == ("probe-init" if model == "drawn" else "probe", ends == 0)
    assert told["low"] < told["learning_rate"] < told["high"] and 0.0 < told["regret"] < 1.0
    code, out, err = run(*given, "--value", "recommended")
    assert code == ends and "no rate to train at" not in err
    assert float(out) == pytest.approx(told["learning_rate"], rel=1e-5)


@pytest.mark.parametrize("budget", [("--probe", "none"), ("--probe-budget", "83")])
def test_a_recommendation_that_is_not_known_ends_in_six(run: Run, home: Path, budget: tuple[str, ...]) -> None:
    given = (*GIVEN[:4], "--optimizer", "adamw", *budget)
    code, out, err = run(*given, "--value", "recommended")
    assert code == 6 and out == "" and "no recommended learning rate" in err
    told = json.loads(run(*given, "--json")[1])["result"]["recommended"]
    assert told["learning_rate"] is told["regret"] is told["estimator"] is None and not told["reliable"]
    assert told["missing"]["learning_rate"]["code"] == ("not-asked" if "none" in budget else "indistinct")


SCHEDULED = (*GIVEN[:4], "--optimizer", "lion", "--json")


def probe_of(out: str) -> list[tuple[float, int, float]]:
    return [(each["learning_rate"], each["steps"], each["loss"]) for each in json.loads(out)["result"]["probe"]]


def test_short_runs_follow_the_schedule_that_is_given_as_a_shape_or_as_a_table(run: Run, home: Path) -> None:
    """The same line up and down, the table's peak being a rate at which the first runs lie."""
    (home / "rates.csv").write_text("step,learning_rate\n0,0\n10,0.02\n100,0\n")
    shape = ("--schedule", "linear", "--warmup-steps", "10", "--total-steps", "100", "--lr", "0.02")
    code, out, err = run(*SCHEDULED, *shape, "--probe-budget", "84")
    assert code == 0 and "Steps of the run" not in err
    line = probe_of(out)
    _, out, _ = run(*SCHEDULED, "--schedule", "rates.csv", "--probe-budget", "84")
    table = probe_of(out)
    assert [each[:2] for each in table] == [pytest.approx(each[:2]) for each in line] and table[3][0] == 0.02
    assert [each[2] for each in table] == pytest.approx([each[2] for each in line], rel=1e-4)
    _, out, _ = run(*SCHEDULED, "--lr", "0.02", "--probe-budget", "84")
    assert [each[2] for each in probe_of(out)] != pytest.approx([each[2] for each in line], rel=1e-2)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (("--schedule", "cosine"), 1000),
        (("--warmup-steps", "30"), 1000),
        (("--schedule", "linear", "--warmup-steps", "200"), 2000),
    ],
)
def test_steps_of_the_run_that_nothing_tells_are_assumed_and_that_is_said(
    run: Run, home: Path, given: tuple[str, ...], taken: int
) -> None:
    words = f"Steps of the run: taken as {taken}. If that is wrong, give --total-steps."
    code, _, err = run(*SCHEDULED, *given, "--probe-budget", "84")
    assert code == 0 and words in err
    assert words not in run(*SCHEDULED, *given, "--probe-budget", "84", "--total-steps", "500")[2]
    assert words not in run(*SCHEDULED, *given, "--probe", "none")[2], "no run follows it"


def test_a_run_of_few_steps_bounds_the_short_ones(run: Run, home: Path) -> None:
    code, out, _ = run(*SCHEDULED, "--schedule", "linear", "--total-steps", "8")
    assert code == 0 and {steps for _, steps, _ in probe_of(out)} == {8}


def test_a_rate_that_is_taken_as_constant_is_said(run: Run, home: Path) -> None:
    _, out, err = run(*SCHEDULED, "--probe-budget", "84", "--json")
    assert "schedule: none is known. Short runs keep the rate constant" in " ".join(err.split())
    assert json.loads(out)["result"]["schedule"] == "constant"
    _, out, err = run(*SCHEDULED, "--probe-budget", "84", "--schedule", "linear", "--total-steps", "50", "--json")
    assert "keep the rate constant" not in " ".join(err.split())
    assert json.loads(out)["result"]["schedule"] == "linear"


def test_a_saved_schedule_is_followed_from_where_the_checkpoint_stands(run: Run, home: Path) -> None:
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    model = scope["build"]()  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    data = scope["batch"]()  # type: ignore[operator]
    for _ in range(14):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
        optimizer.step()
        scheduler.step()
    held = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 14}
    torch.save({**held, "lr_scheduler": scheduler.state_dict()}, "c.pt")
    code, out, err = run("c.pt", *GIVEN[:4], "--probe", "checkpoint", "--json")
    assert code == 0 and "a cosine schedule over 30 steps, read from c.pt" in err
    assert {steps for _, steps, _ in probe_of(out)} == {12}, "those that are left"


def test_a_picture_of_the_short_runs_is_drawn(run: Run, home: Path) -> None:
    code, _, _ = run(*GIVEN[:4], "--optimizer", "sgd", "--probe-budget", "84", "--plot", "runs.svg")
    assert code == 0 and "12 steps" in (home / "runs.svg").read_text()
    code, _, err = run(*GIVEN, "--optimizer", "sgd", "--plot", "runs.svg")
    assert code == 3 and "runs.svg" in err, "it is not overwritten"


def test_without_an_optimizer_all_of_them_are_shown(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--format", "rich")
    assert code == 0
    assert all(name in out for name in ("fromage", "lars", "lamb", "sgd", "adamw", "lion", "muon"))
    for flag, *setting in (("--value", "limit"), ("--verify", "3"), ("--sharpness",), ("--probe", "checkpoint")):
        code, out, err = run(*GIVEN, flag, *setting)
        assert code == 2 and out == "" and f"{flag} {'checkpoint ' * (flag == '--probe')}needs the optimizer" in err


def test_stability_at_the_rate_is_measured_unless_the_limit_alone_is_asked_for(run: Run, home: Path) -> None:
    given = (*GIVEN, "--optimizer", "sgd", "--lr", "0.1", "--probe", "none")
    stability = json.loads(run(*given, "--json")[1])["result"]["stability"]
    assert stability["ratio"] == pytest.approx(0.1 / stability["learning_rate"])
    without = json.loads(run(*given, "--no-sharpness", "--json")[1])["result"]
    assert without["stability"]["ratio"] is None and without["stability"]["missing"]["ratio"]["code"] == "not-asked"
    assert "sharpness" not in {each["name"] for each in without["estimates"]}
    told = [json.loads(run(*given, *extra, "--estimate", "--json")[1]) for extra in ((), ("--no-sharpness",))]
    products, alone = (each["result"]["estimate"]["gradients"] for each in told)
    assert products > alone


def test_a_spike_of_kinks_far_below_the_place_ends_the_limit(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 1760 a few rows rule the gradient between .0003 and .0006; a dense grid shows it too."""
    sample = str(SAMPLES / "mlp-16" / "step-001760.safetensors")
    given = (sample, "--optimizer", "fromage", "--lr", "0.01", "--probe", "none", "--json")
    result = json.loads(run(*given)[1])["result"]
    with pytest.raises(SystemExit):
        main(["breakdown", sample, "--tensors", "all", "--eta", "1e-4:4e-4:13", "--json"])
    dense = json.loads(capsys.readouterr().out)["result"]
    assert result["limit"]["relation"] == "crossing" and result["limit"]["reliable"]
    assert result["limit"]["eta"] == pytest.approx(dense["aggregate_trust_eta"], rel=0.15)
    layers = next(each for each in result["estimates"] if each["name"] == "measured")
    assert layers["eta"] <= result["limit"]["eta"]


def test_real_steps_are_shown(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--optimizer", "sgd", "--verify", "4", "--json")
    runs = json.loads(out)["result"]["verification"]
    assert code == 0 and [each["factor"] for each in runs] == pytest.approx([1 / 3, 1.0, 3.0])
    assert all(each["best"] in (True, False) and each["spread"] >= 0.0 for each in runs)


def test_several_batches_and_training_batches_are_understood(run: Run, home: Path) -> None:
    code, out, _ = run(
        "--model", "network.py:build", "--batch", "network.py:batches", "--batches", "3", "--probe", "none",
        "--optimizer", "sgd", "--train-batch-size", "5", "--warm", "6", "--json",
    )  # fmt: skip
    result = json.loads(out)["result"]
    assert code == 0
    assert (result["optimizer"]["train_batch_size"], result["noise_rows"]) == (5, 10)


def test_the_rows_of_a_training_batch_may_be_declared(run: Run) -> None:
    code, out, _ = run(SAMPLES / "convnet-sgd", "--model", SAMPLES / "models.py:convnet", "--json", "--probe", "none")
    assert code == 0 and json.loads(out)["result"]["optimizer"]["train_batch_size"] == 64


def test_an_iterator_gives_the_short_runs_batches_of_their_own(run: Run, home: Path) -> None:
    code, out, err = run("--model", "network.py:build", "--batch", "network.py:batches", "--optimizer", "sgd", "--json")
    answer = json.loads(out)
    words = (
        "short runs: 22 from these weights, 360 of 400 steps allowed; 8 batches of 20 rows, judged on 40 rows outside."
    )
    assert code == 0 and words in err and "For whole ones" not in err
    assert answer["problem"]["batch_size"] == 20
    (cost,) = [each["gradient_evaluations"] for each in answer["result"]["estimates"] if "probe" in each["name"]]
    assert 250 < cost <= 400 + 22 * 2, "in gradients of the 20 rows of the batch"


def test_the_cost_is_told_beforehand(run: Run, home: Path) -> None:
    plain, more = (
        json.loads(run(*GIVEN[:4], "--optimizer", "sgd", "--estimate", "--json", *extra)[1])["result"]["estimate"]
        for extra in (("--probe", "none", "--no-sharpness"), ("--probe", "none"))
    )
    assert 10 < plain["gradients"] < more["gradients"]
    assert plain["bytes"] > 0 and plain["seconds"] > 0


def test_the_cost_is_that_of_the_run_it_stands_for(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs are not counted where only the limit is printed, nor where one row allows none."""
    monkeypatch.setattr(Cost, "equivalent", lambda self, products: products)

    def told(batch: str, *extra: str) -> float:
        given = ("--model", "network.py:build", "--batch", f"network.py:{batch}", "--optimizer", "sgd")
        code, out, err = run(*given, *extra, "--estimate", "--json")
        assert code == 0, err
        return float(json.loads(out)["result"]["estimate"]["gradients"])

    plain, whole = told("batch", "--probe", "none", "--no-sharpness"), told("batch")
    run(*GIVEN[:4], "--optimizer", "sgd", "--value", "limit", "--estimate", "-o", "limit.tsv")
    (row,) = csv.DictReader((home / "limit.tsv").open(), delimiter="\t")
    assert float(row["gradients"]) == pytest.approx(plain, rel=5e-3)  # a table has three digits
    assert plain < whole
    assert told("row") == told("row", "--probe", "none")
    assert run("--model", "network.py:build", "--batch", "network.py:row", "--optimizer", "sgd")[0] == 0
    code, _, err = run(*GIVEN[:3], "network.py:row", "--optimizer", "sgd", "--probe", "checkpoint", "--estimate")
    assert code == 2 and "two rows" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--lr", "0"), 2, "expected a number above 0"),
        (("--lr", "-0.1"), 2, "above 0"),
        (("--optimizer", "adagrad"), 2, "adagrad"),
        (("--betas", ".9"), 2, "two numbers"),
        (("--train-batch-size", "0"), 2, "train-batch-size"),
        (("--warm", "1"), 2, "warm"),
        (("--probe-budget", "0"), 2, "probe-budget"),
        (("--optimizer", "sgd", "--warmup-steps", "9", "--total-steps", "9"), 2, "fewer than the run's 9 steps"),
        (("--optimizer", "sgd", "--schedule", "rates.csv"), 2, "there is no such file"),
        (("--optimizer", "lamb", "--momentum", ".9"), 2, "no setting of lamb"),
        (("--optimizer", "sgd", "--value", "limit", "--json"), 2, "--value prints a number alone"),
        (("--optimizer", "sgd", "--loss", "network.py:nothing"), 6, "The loss at the checkpoint's own weights is nan"),
        (("--optimizer", "sgd", "--include", "nothing.*"), 5, "No tensor matches"),
        (("--optimizer", "sgd", "--time-limit", "0.000001"), 7, "time limit"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, home: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    ended, _, err = run(*GIVEN, *arguments)
    assert ended == code
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_a_perceptron_that_was_rebuilt_starts_from_new_weights(run: Run) -> None:
    code, out, err = run(SAMPLES / "mlp-2", "--optimizer", "adamw", "--json")
    result = json.loads(out)["result"]
    assert code == 0
    assert result["recommended"]["estimator"] == "probe-init"
    assert result["probe"][0]["loss"] > 1.0, "an untrained network's loss, at the lowest rate"
    assert "from new weights as torch draws them" in " ".join(err.split())


def test_a_state_of_another_model_is_refused(run: Run, home: Path) -> None:
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    model, other = scope["build"](), nn.Linear(3, 2)  # type: ignore[operator]
    optimizer = torch.optim.AdamW(other.parameters())
    other(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "c.pt")
    code, _, err = run("c.pt", *GIVEN)
    assert code == 5
    assert "optimizer's state has 2 parameters, but the model has 4" in " ".join(err.split())
