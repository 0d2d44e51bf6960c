"""A command says of a bundle what it says of the live network, its batch, its loss and its checkpoint."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fromage_cli import bundle
from fromage_cli.cli import main

SOURCE = """
import torch
from torch import nn
from torch.nn import functional

def build():
    torch.manual_seed(4)
    first = nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(0.2)
    return nn.Sequential(*first, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

def weighed(model, batch):
    each = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none", label_smoothing=0.1)
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    return each.sum() + 0.01 * penalty, torch.ones_like(each).sum()
"""
Run = Callable[..., tuple[int, str, str]]


@dataclass
class Runs:
    """One training run, saved in both ways at two steps."""

    folder: Path

    def live(self, step: int = 6) -> list[str]:
        return [str(self.folder / "run" / f"step-{step}.pt")]

    def bundled(self, step: int = 6, name: str = "bundles") -> list[str]:
        return [str(self.folder / name / f"step-{step}")]

    @property
    def network(self) -> list[str]:
        return ["--model", f"{self.folder}/net.py:build", "--batch", f"{self.folder}/batch.pt"]

    def arguments(self, name: str) -> list[str]:
        """What a command is given beside a checkpoint, for the numbers of a bundle of that name."""
        return [*self.network, *(["--loss", f"{self.folder}/net.py:weighed"] if name == "weighed" else [])]

    @property
    def held_out(self) -> list[str]:
        return ["--val-batch", f"{self.folder}/held_out.pt"]


def rows(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 6, generator=generator)
    return {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "net.py").write_text(SOURCE)
    (folder / "run").mkdir()
    code: dict[str, Any] = {"__name__": "net"}
    exec(SOURCE, code)
    torch.save(rows(1), folder / "batch.pt")
    torch.save(rows(2), folder / "held_out.pt")
    model, batch = code["build"](), rows(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(1, 7):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch["x"]), batch["y"]).backward()
        optimizer.step()
        if step % 3 == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, folder / "run" / f"step-{step}.pt")
            given = {"optimizer": optimizer, "step": step, "strict": True}
            bundle.save(folder / "bundles" / f"step-{step}", model, batch, nn.CrossEntropyLoss(), **given)
            bundle.save(folder / "weighed" / f"step-{step}", model, batch, code["weighed"], **given)
    return Runs(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls a command: its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def anonymous(value: Any, runs: Runs) -> Any:
    """An answer in which files are called by their step alone."""
    if isinstance(value, dict):
        return {key: anonymous(item, runs) for key, item in value.items()}
    if isinstance(value, list):
        return [anonymous(item, runs) for item in value]
    if isinstance(value, str):
        for found, name in ((f"{runs.folder}/{each}/", "") for each in ("run", "bundles", "weighed")):
            value = value.replace(found, name)
        value = value.replace(".pt", "").replace(f"{runs.folder}/net.py:weighed", "LOSS")
        value = re.sub(r"weighed (of \w+ )?\(in the bundle\)", "LOSS", value)
    return value


def answer_of(run: Run, runs: Runs, *arguments: object) -> tuple[Any, Any]:
    """The result and the findings."""
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    answer = anonymous(json.loads(out), runs)
    return answer["result"], answer["findings"]


ONE = [
    ["breakdown"],
    ["breakdown", "--mode", "train"],
    ["breakdown", "--mode", "eval", "--micro-batch", "5"],
    ["breakdown", "--dtype", "float64"],
    ["breakdown", "--direction", "adam", "--include", "4.*"],
    ["breakdown", "--recompute"],
    ["sharpness", "--top", "2"],
    ["suggest-lr", "--probe-budget", "30"],
    ["hypergrad", "--method", "gauss-newton", "--mode", "eval"],
    ["hypergrad", "--method", "gauss-newton"],
]
WITH_LOSS = [
    ["breakdown"],
    ["breakdown", "--mode", "train"],
    ["breakdown", "--dtype", "float64"],
    ["breakdown", "--recompute"],
    ["suggest-lr", "--probe", "none", "--no-sharpness"],
]
SEVERAL = ["norms", "intrinsic-lr", "distance"]


@pytest.mark.parametrize("command", ONE, ids=" ".join)
def test_a_bundle_answers_as_the_live_network_does(run: Run, runs: Runs, command: list[str]) -> None:
    rows = runs.held_out if command[0] == "hypergrad" else []
    live = answer_of(run, runs, *command, *runs.live(), *runs.network, *rows)
    assert answer_of(run, runs, *command, *runs.bundled(), *rows) == live


@pytest.mark.parametrize("command", SEVERAL)
def test_bundles_of_a_run_answer_as_its_checkpoints_do(run: Run, runs: Runs, command: str) -> None:
    live = answer_of(run, runs, command, *runs.live(3), *runs.live(6), *runs.network)
    assert answer_of(run, runs, command, *runs.bundled(3), *runs.bundled(6)) == live


@pytest.mark.parametrize("command", WITH_LOSS, ids=" ".join)
def test_a_loss_in_the_bundle_answers_as_the_function_does(run: Run, runs: Runs, command: list[str]) -> None:
    live = answer_of(run, runs, *command, *runs.live(), *runs.arguments("weighed"))
    assert answer_of(run, runs, *command, *runs.bundled(name="weighed")) == live


def test_state_is_that_of_the_optimizer(run: Run, runs: Runs) -> None:
    for steps in ([6], [3, 6]):
        live = answer_of(run, runs, "state", *(place for step in steps for place in runs.live(step)))
        bundled = answer_of(run, runs, "state", *(place for step in steps for place in runs.bundled(step)))
        assert bundled == live


def test_inspect_says_the_same_of_every_tensor(run: Run, runs: Runs) -> None:
    """Names of formats differ, and a bundle has no pickle whose calls could be listed."""
    of_a_format = {"format", "key", "reading", "safety", "also_holds", "optimizer", "tensors"}
    found = []
    for place in (runs.live(), runs.bundled()):
        result, findings = answer_of(run, runs, "inspect", *place, "--spectrum")
        tensors = sorted(result["tensors"], key=lambda one: one["name"])
        groups = [{**group, "names": None} for group in result["optimizer"]["groups"]]
        kept = {key: value for key, value in result.items() if key not in of_a_format}
        found.append((tensors, groups, kept, findings))
    assert len(found[0][0]) == 13
    assert found[0] == found[1]


@pytest.fixture(scope="module", params=["bundles", "weighed"])
def checked(request: pytest.FixtureRequest, runs: Runs) -> tuple[str, Any, Any]:
    """What `check` says of bundles, whose loss is a named one or the user's, and of the checkpoints of the same run."""
    found = []
    for given in ([runs.folder / request.param], [runs.folder / "run", *runs.arguments(request.param)]):
        place = runs.folder / "check.json"
        with pytest.raises(SystemExit):
            main(["check", *map(str, given), "--fail-on", "never", "-o", str(place)])
        found.append(anonymous(json.loads(place.read_text()), runs)["result"])
    return request.param, *found


def test_check_asks_of_a_bundle_what_it_asks_of_a_checkpoint(checked: tuple[str, Any, Any]) -> None:
    _, bundled, live = checked
    for command in ("state", "norms", "breakdown", "suggest-lr", "sharpness"):
        assert bundled["results"][command] == live["results"][command], command


def test_check_looks_at_the_forward_pass_of_a_bundle(checked: tuple[str, Any, Any]) -> None:
    _, bundled, live = checked
    assert bundled["skipped"] == []
    assert bundled["forward_pass"] == live["forward_pass"]


def test_a_model_that_is_named_takes_the_place_of_the_graph(run: Run, runs: Runs) -> None:
    live = answer_of(run, runs, "breakdown", *runs.live(), *runs.network)
    model = ["--model", f"{runs.folder}/net.py:build"]
    assert answer_of(run, runs, "breakdown", *runs.bundled(), *model) == live


def test_a_batch_that_is_named_takes_the_place_of_the_saved_one(run: Run, runs: Runs) -> None:
    other = ["--batch", f"{runs.folder}/held_out.pt"]
    live = answer_of(run, runs, "breakdown", *runs.live(), *runs.network, *other)
    assert answer_of(run, runs, "breakdown", *runs.bundled(), *other) == live


def test_a_bundle_may_be_the_batch(run: Run, runs: Runs) -> None:
    model = ["--model", f"{runs.folder}/net.py:build", "--batch", *runs.bundled()]
    live = answer_of(run, runs, "breakdown", *runs.live(), *runs.network)
    assert answer_of(run, runs, "breakdown", *runs.live(), *model) == live


def test_rows_of_another_shape_are_refused(run: Run, runs: Runs) -> None:
    torch.save({"x": torch.randn(4, 7), "y": torch.zeros(4, dtype=torch.long)}, runs.folder / "wide.pt")
    code, _, err = run("breakdown", *runs.bundled(), "--batch", runs.folder / "wide.pt")
    assert (code, "error: " in err) == (5, True)
    assert "[6]" in err and "[7]" in err
