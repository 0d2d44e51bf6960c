"""Where no graph can be made, or it would be another function, the bundle says why and asks for the network."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli import bundle
from fromage_cli.cli import main

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional

class Halved(torch.autograd.Function):
    """The identity, whose gradient is halved."""
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, slope):
        return slope / 2

class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x) if x.sum() > -1e9 else x

class Surrogate(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
    def forward(self, x):
        return self.last(Halved.apply(self.first(x)))

class Counting(nn.Module):
    """Alternates between two functions."""
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), 0
    def forward(self, x):
        self.calls += 1
        return self.layer(x) * (1.0 + self.calls % 2)

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x)

def choosing(): return Choosing()
def surrogate(): return Surrogate()
def plain(): return Plain()

def by_rows(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum") / len(batch["y"])

def mean(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"])

def raising_on_nan(model, batch):
    loss = mean(model, batch)
    if torch.isnan(loss):
        raise RuntimeError("not a number")
    return loss
'''
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The user's file as a module."""
    module = ModuleType("net")
    place = tmp_path_factory.mktemp("code") / "net.py"
    place.write_text(SOURCE)
    module.__file__ = str(place)
    exec(SOURCE, module.__dict__)
    return module


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls a command: its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "1000")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def rows(size: int = 6) -> dict[str, torch.Tensor]:
    return {"x": torch.linspace(-1, 1, 4 * size).view(size, 4).sin(), "y": torch.arange(size) % 3}


def about(place: Path) -> Any:
    return json.loads((place / "bundle.json").read_text())["graph"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("choosing", "torch.export cannot make a graph"), ("surrogate", "is not the network")],
)
def test_what_is_no_graph_needs_the_network(tmp_path: Path, run: Run, code: ModuleType, name: str, words: str) -> None:
    torch.manual_seed(0)
    model = getattr(code, name)()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    factory = f"{code.__file__}:{name}"
    bundle.save(tmp_path / "b", model, rows(), "cross-entropy", optimizer, 3, factory=factory)
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == ["batch.safetensors", "bundle.json", "model.safetensors"]
    assert words in about(tmp_path / "b")["missing"]
    ended, _, err = run("breakdown", tmp_path / "b")
    assert (ended, words in err, "--model" in err, factory in err) == (5, True, True, True)
    ended, out, err = run("breakdown", tmp_path / "b", "--model", factory, "--json")
    assert ended == 0, err
    torch.save(model.state_dict(), tmp_path / "w.pt")
    torch.save(rows(), tmp_path / "rows.pt")
    given = ["--model", factory, "--batch", tmp_path / "rows.pt"]
    live = json.loads(run("breakdown", tmp_path / "w.pt", *given, "--json")[1])
    assert json.loads(out)["result"] == live["result"]


def test_a_function_that_is_not_in_the_bundle_is_to_be_named(tmp_path: Path, run: Run, code: ModuleType) -> None:
    factory = f"{code.__file__}:choosing"
    bundle.save(tmp_path / "b", code.choosing(), rows(), code.mean, factory=factory)
    ended, _, err = run("breakdown", tmp_path / "b", "--model", factory)
    assert (ended, "mean" in err, "--loss file.py:function" in err) == (5, True, True)
    assert run("breakdown", tmp_path / "b", "--model", factory, "--loss", f"{code.__file__}:mean")[0] == 0


def test_a_loss_that_counts_rows_holds_for_that_many(tmp_path: Path, run: Run, code: ModuleType) -> None:
    bundle.save(tmp_path / "b", code.plain(), rows(), code.by_rows, strict=True)
    found = about(tmp_path / "b")
    assert found["missing"] is None
    assert found["fixed_rows"]
    assert run("breakdown", tmp_path / "b")[0] == 0
    torch.save(rows(4), tmp_path / "fewer.pt")
    for other in (["--batch", tmp_path / "fewer.pt"], ["--micro-batch", "2"]):
        ended, _, err = run("breakdown", tmp_path / "b", *other)
        assert (ended, "6 rows alone" in err) == (5, True), err


def test_a_loss_that_looks_at_its_value_needs_the_network(tmp_path: Path, run: Run, code: ModuleType) -> None:
    bundle.save(tmp_path / "b", code.plain(), rows(), code.raising_on_nan, factory=f"{code.__file__}:plain")
    assert "torch.export cannot" in about(tmp_path / "b")["missing"]
    given = ["--model", f"{code.__file__}:plain", "--loss", f"{code.__file__}:raising_on_nan"]
    assert run("breakdown", tmp_path / "b", *given)[0] == 0


def test_a_network_that_changes_from_call_to_call_has_no_graph(tmp_path: Path, code: ModuleType) -> None:
    model = code.Counting()
    bundle.save(tmp_path / "b", model, rows(), "cross-entropy")
    found = about(tmp_path / "b")
    assert model.calls == 0
    assert found["missing"] is None or "is not the network" in found["missing"]


def test_graphs_are_made_again_where_the_network_changed(tmp_path: Path, code: ModuleType) -> None:
    """The second bundle is that of another function."""
    model: Any = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0))
    bundle.save(tmp_path / "a", model, rows(), "cross-entropy", strict=True)
    first = about(tmp_path / "a")["losses"]
    model[1] = nn.Tanh()
    bundle.save(tmp_path / "b", model, rows(), "cross-entropy", strict=True)
    second = about(tmp_path / "b")["losses"]
    expected = nn.functional.cross_entropy(model(rows()["x"]), rows()["y"])
    assert second["eval"] == pytest.approx(float(expected.detach()), rel=1e-6)
    assert first["eval"] != second["eval"]


def test_graphs_are_used_again_with_other_weights(tmp_path: Path, run: Run) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for step in range(2):
        bundle.save(tmp_path / f"{step}", model, rows(), "cross-entropy", strict=True)
        assert (tmp_path / "0" / "graphs.json").read_text() == (tmp_path / f"{step}" / "graphs.json").read_text()
        found = json.loads(run("breakdown", tmp_path / f"{step}", "--json")[1])["result"]["loss"]
        expected = float(nn.functional.cross_entropy(model(rows()["x"]), rows()["y"]).detach())
        assert found == pytest.approx(expected, rel=1e-6)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)


def test_an_attribute_that_changed_is_seen(tmp_path: Path, run: Run) -> None:
    class Scaled(nn.Linear):
        scale = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.scale

    model = Scaled(4, 3)
    bundle.save(tmp_path / "a", model, rows(), "cross-entropy", strict=True)
    model.scale = 2.0
    bundle.save(tmp_path / "b", model, rows(), "cross-entropy", strict=True)
    found = json.loads(run("breakdown", tmp_path / "b", "--json")[1])["result"]["loss"]
    assert found == pytest.approx(
        float(nn.functional.cross_entropy(model(rows()["x"]), rows()["y"]).detach()), rel=1e-6
    )


def test_a_mode_without_a_graph_is_refused(tmp_path: Path, run: Run) -> None:
    """A cumulative mean counts batches, which training alone reads."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=None), nn.Linear(5, 3))
    bundle.save(tmp_path / "b", model, rows(), "cross-entropy")
    assert about(tmp_path / "b")["modes"] == ["eval"]
    assert run("breakdown", tmp_path / "b", "--mode", "eval")[0] == 0
    for mode in ("train", "auto"):
        assert run("breakdown", tmp_path / "b", "--mode", mode)[0] == 5


def test_each_loss_of_one_network_has_its_own_graph(tmp_path: Path) -> None:
    def smoothed(model: nn.Module, batch: dict[str, torch.Tensor], *, smoothing: float) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=smoothing)

    model = nn.Linear(4, 3)
    for smoothing in (0.0, 0.1, 0.2, 0.3):
        bundle.save(tmp_path / "b", model, rows(), partial(smoothed, smoothing=smoothing), strict=True)
        expected = float(smoothed(model, rows(), smoothing=smoothing).detach())
        assert about(tmp_path / "b")["losses"]["eval"] == pytest.approx(expected, rel=1e-6)


LOSSES = {
    "a name": "cross-entropy",
    "a function": lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"]),
    "a module": nn.CrossEntropyLoss(label_smoothing=0.1),
}


@pytest.mark.parametrize("name", ["a name", "a function", "a module"])
def test_graphs_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = nn.Linear(4, 3)
    bundle.save(tmp_path / "b", model, rows(), LOSSES[name], strict=True)

    def unexpected(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was exported again")

    monkeypatch.setattr(torch.export, "export", unexpected)
    for _ in range(2):
        bundle.save(tmp_path / "b", model, rows(), LOSSES[name], strict=True)
        assert about(tmp_path / "b")["missing"] is None
