"""The command as a user and a script meet it: what comes out, and how each thing that does not fit is refused."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

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

def batches():
    generator = torch.Generator().manual_seed(1)
    while True:
        yield {"x": torch.randn(10, 8, generator=generator), "y": torch.randint(3, (10,), generator=generator)}

def rough(model, batch):
    return model(batch["x"] * 0).sub(model(batch["x"] * 0).detach()).abs().pow(1.5).mean()

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient

def once(model, batch):
    return Once.apply(model(batch["x"])).mean()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model file that is also the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(MODEL)
    return tmp_path


GIVEN = ("--model", "network.py:build", "--batch", "network.py:batch")


def test_the_rows_of_a_training_batch_may_be_declared(run: Run, tmp_path: Path) -> None:
    for name in ("batch.safetensors", "step-000440.safetensors"):
        shutil.copy(SAMPLES / "mlp-2" / name, tmp_path)
    (tmp_path / "fromage.toml").write_text('activation = "relu"\nbatch = "batch.safetensors"\ntrain_batch_size = 64\n')
    code, out, _ = run(tmp_path, "--optimizer", "sgd", "--lr", "0.01", "--simulate", "0", "--json")
    assert code == 0 and json.loads(out)["result"]["batch_sharpness"]["batch_size"] == 64


def test_a_sample_with_an_optimizer_state_needs_nothing_else(run: Run, tmp_path: Path) -> None:
    for name in ("fromage.toml", "step-000860.pt"):
        shutil.copy(SAMPLES / "char-gpt" / name, tmp_path)
    rows = {name: tensor[:8].clone() for name, tensor in load_file(SAMPLES / "char-gpt" / "batch.safetensors").items()}
    save_file(rows, tmp_path / "batch.safetensors")
    code, out, _ = run(tmp_path, "--model", SAMPLES / "models.py:char_gpt", "--json")
    envelope = json.loads(out)
    result = envelope["result"]
    assert code == 0
    assert (envelope["schema"], envelope["command"]) == ("fromage-diag/1", "sharpness")
    assert (result["optimizer"], result["learning_rate"], result["trained"]) == ("adamw", 0.003, True)
    assert result["ratio"] == pytest.approx(result["preconditioned_eigenvalue"] / result["threshold"])
    quadratic = result["quadratic"]
    assert quadratic["spikes"] is False and quadratic["outcome"] == "falls"
    assert len(quadratic["losses"]) == 17 and quadratic["losses"][0] == pytest.approx(result["loss"])
    assert len(quadratic["rates"]) == len(quadratic["line_losses"]) == len(quadratic["line_model_losses"]) >= 13
    assert result["critical_sharpness_stderr"] < result["critical_sharpness"]
    assert envelope["settings"]["betas"] == "0.9,0.95"
    assert envelope["settings"]["lr"] == 0.003
    assert 50 < envelope["tool"]["hvp_evaluations"] <= 100


@pytest.mark.parametrize("name", ["mlp-2", "mlp-16", "resmlp-16"])
def test_a_sample_without_one_is_held_against_the_optimizer_that_is_named(run: Run, name: str) -> None:
    code, out, _ = run(SAMPLES / name, "--json")
    unknown = json.loads(out)["result"]
    assert code == 0
    assert unknown["threshold"] is unknown["regime"] is None
    assert unknown["eigenvalues"][0]["residual"] <= 1e-3 * unknown["eigenvalues"][0]["value"]
    named = json.loads(run(SAMPLES / name, "--json", "--optimizer", "sgd", "--momentum", "0.9", "--lr", "0.05")[1])
    result = named["result"]
    assert result["threshold"] == pytest.approx(3.8 / 0.05)
    assert result["ratio"] == pytest.approx(result["eigenvalues"][0]["value"] / 76.0)


def test_the_main_table_has_the_eigenvalues(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--top", "3", "--format", "tsv")
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert code == 0
    assert list(rows[0]) == ["value", "residual"]
    values = [float(row["value"]) for row in rows]
    assert len(values) == 3 and values == sorted(values, reverse=True)


def test_the_blocks_are_a_table_of_their_own(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--blocks", "--table", "blocks", "--format", "tsv")
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    assert code == 0
    assert list(rows[0]) == ["name", "kind", "parameters", "eigenvalue", "residual"]
    assert [row["name"] for row in rows] == ["0.weight", "2.weight"]
    layers = json.loads(run(*GIVEN, "--blocks", "--json")[1])["result"]["layers"]
    assert list(layers[0])[:4] == ["name", "kind", "shape", "parameters"]
    assert float(rows[0]["eigenvalue"]) == pytest.approx(layers[0]["eigenvalue"], rel=1e-4)


@pytest.mark.parametrize("name", ["curves.svg", "curves.png"])
def test_the_picture_is_written_beside_the_answer(run: Run, home: Path, name: str) -> None:
    given = (*GIVEN, "--optimizer", "sgd", "--lr", "0.1", "--simulate", "3", "--plot", name)
    code, _, err = run(*given, "--json")
    assert code == 0
    assert f"the plot was written to {name}" in err
    assert (home / name).stat().st_size > 5_000
    assert run(*given)[0] == 3, "an existing file is left alone"


def test_an_optimizer_without_a_threshold_is_told_so(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--optimizer", "lion", "--lr", "0.001", "--simulate", "2", "--json")
    result = json.loads(out)["result"]
    assert code == 0
    assert result["threshold"] is result["ratio"] is result["regime"] is None
    assert result["critical_sharpness"] is not None and len(result["quadratic"]["losses"]) == 3
    assert result["missing"]["threshold"]["code"] == result["missing"]["ratio"]["code"] == "no-formula"
    assert "not proportional to the gradient" in result["missing"]["threshold"]["reason"]


def test_a_rate_that_diverges_in_the_quadratic_model_is_a_finding(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--optimizer", "sgd", "--lr", "1000", "--json")
    codes = {finding["code"] for finding in json.loads(out)["findings"]}
    assert code == 0 and "quadratic-model-diverges" in codes
    assert "quadratic-model-diverges" not in run(*GIVEN, "--optimizer", "sgd", "--lr", "0.01", "--json")[1]


def test_the_page_says_what_the_ratio_means(run: Run, home: Path) -> None:
    code, out, _ = run(*GIVEN, "--optimizer", "sgd", "--lr", "0.1", "--format", "rich")
    assert code == 0
    said = " ".join(out.split())
    assert "% of the sharpness that SGD at 0.1 tolerates." in said
    assert "What now: Nothing to change; up to " in said and " · SGD at 0.1" in out.splitlines()[0]


def test_the_summary_holds_the_ratio(run: Run, home: Path) -> None:
    given = (*GIVEN, "--optimizer", "sgd", "--lr", "0.1")
    code, out, _ = run(*given, "--table", "summary", "--format", "tsv")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(out), delimiter="\t")}
    result = json.loads(run(*given, "--json")[1])["result"]
    assert code == 0 and float(rows["ratio"]["value"]) == pytest.approx(result["ratio"], rel=1e-3)
    assert rows["regime"]["value"] == "lazy" and rows["stable_learning_rate"]["unit"] == "learning rate"


def test_one_block_of_the_hessian_is_a_matter_of_include(run: Run, home: Path) -> None:
    whole, block = (json.loads(run(*GIVEN, "--json", *more)[1])["result"] for more in ((), ("--include", "2.*")))
    assert (whole["tensors"], block["tensors"], block["parameters"]) == (4, 2, 51)
    assert block["eigenvalues"][0]["value"] < whole["eigenvalues"][0]["value"]


def test_micro_batches_and_several_batches_are_measured_together(run: Run, home: Path) -> None:
    first = json.loads(run(*GIVEN, "--json", "--train-batch-size", "5")[1])["result"]
    split = json.loads(run(*GIVEN, "--json", "--train-batch-size", "5", "--micro-batch", "8")[1])["result"]
    assert split["eigenvalues"][0]["value"] == pytest.approx(first["eigenvalues"][0]["value"], rel=1e-4)
    assert split["batch_sharpness"]["mean"] == pytest.approx(first["batch_sharpness"]["mean"], rel=1e-4)
    several = ("--model", "network.py:build", "--batch", "network.py:batches", "--batches", "2", "--json")
    result = json.loads(run(*several)[1])["result"]
    assert (result["batch_sharpness"]["batches"], result["batch_sharpness"]["batch_size"]) == (2, 10)


def test_a_saved_momentum_is_part_of_the_step(run: Run, home: Path) -> None:
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    model, data = scope["build"](), scope["batch"]()  # type: ignore[operator]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.8)
    nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}, "c.pt")
    code, out, err = run("c.pt", *GIVEN, "--json")
    result = json.loads(out)["result"]
    assert code == 0
    assert (result["optimizer"], result["momentum"]) == ("sgd", 0.8)
    assert result["threshold"] == pytest.approx(3.6 / 0.2)
    assert result["critical_sharpness"] > 0
    assert "sgd, with the momentum in the checkpoint" in err


def test_a_rate_that_diverges_can_fail_a_job(run: Run, home: Path) -> None:
    given = (*GIVEN, "--optimizer", "sgd", "--lr", "1000", "--json")
    assert run(*given)[0] == 0
    assert run(*given, "--fail-on", "warn")[0] == 10


def test_the_cost_is_told_beforehand(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromage_cli.probes.cost.Cost.equivalent", lambda cost, products: 2.0 * products)
    code, out, _ = run(*GIVEN, "--estimate", "--json")
    estimate = json.loads(out)["result"]["estimate"]
    assert code == 0
    assert 30 < estimate["gradients"] < 300
    more = json.loads(run(*GIVEN, "--estimate", "--json", "--optimizer", "sgd", "--lr", "0.1", "--simulate", "900")[1])
    assert more["result"]["estimate"]["gradients"] > 3 * estimate["gradients"]
    assert estimate["bytes"] > 0 and estimate["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--lr", "0"), 2, "expected a number above 0"),
        (("--lr", "-0.1"), 2, "above 0"),
        (("--optimizer", "sophia"), 2, "sophia"),
        (("--tolerance", "0"), 2, "between 0 and 1"),
        (("--simulate", "-1"), 2, "simulate"),
        (("--table", "blocks"), 2, "Add --blocks"),
        (("--plot", "curves.gif"), 2, "extension"),
        (("--betas", ".9"), 2, "two numbers"),
        (("--top", "0"), 2, "top"),
        (("--optimizer", "adam", "--momentum", ".9"), 2, "no setting of adam"),
        (("--loss", "network.py:once"), 5, "no second derivative"),
        (("--loss", "network.py:rough"), 6, "curvature is not finite"),
        (("--include", "nothing.*"), 5, "No tensor matches"),
        (("--time-limit", "0.000001"), 7, "time limit"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, home: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    ended, _, err = run(*GIVEN, *arguments)
    assert ended == code
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_what_did_not_converge_is_still_printed(run: Run, home: Path) -> None:
    code, out, err = run(*GIVEN, "--max-iterations", "2", "--json")
    envelope = json.loads(out)
    assert code == 6
    assert len(envelope["result"]["eigenvalues"]) == 1
    assert envelope["status"] == "error"
    assert "did not converge" in err


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


def test_second_moments_that_are_not_finite_are_the_reason_for_what_is_missing(run: Run, home: Path) -> None:
    scope: dict = {}
    exec(MODEL, scope)
    model = scope["build"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(scope["batch"]()["x"]).square().mean().backward()
    optimizer.step()
    optimizer.state[model[0].weight]["exp_avg_sq"][0, 0] = float("inf")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "c.pt")
    code, answer, _ = run("c.pt", "--model", "network.py:build", "--batch", "network.py:batch", "--json")
    assert code == 0
    missing = json.loads(answer)["result"]["missing"]
    for field in ("preconditioned_eigenvalue", "ratio", "stable_learning_rate"):
        assert missing[field] == {
            "code": "zero-or-not-finite",
            "reason": "the second moments of 0.weight are not finite",
        }
