"""A bundle that was damaged or made by somebody else ends in one message, and nothing of it is run."""

import hashlib
import json
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli import bundle
from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.formats.bundle import is_bundle, read_bundle
from fromage_cli.cli import main
from fromage_cli.errors import InputError

Json = Any
Change = Callable[[Json], Any]
Run = Callable[..., tuple[int, str]]


def rows() -> dict[str, torch.Tensor]:
    return {"x": torch.linspace(-1, 1, 24).view(6, 4), "y": torch.tensor([0, 1, 2, 0, 1, 2])}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with an optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    nn.functional.cross_entropy(model(rows()["x"]), rows()["y"]).backward()
    optimizer.step()
    place = tmp_path_factory.mktemp("good") / "bundle"
    bundle.save(place, model, rows(), "cross-entropy", optimizer, 7, strict=True)
    return place


@pytest.fixture
def place(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls a command: its exit code and standard error; it took less than ten seconds and gave no traceback."""
    monkeypatch.setenv("COLUMNS", "1000")

    def call(*arguments: object) -> tuple[int, str]:
        began = time.perf_counter()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        assert time.perf_counter() - began < 10.0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert len(re.findall("^error: ", captured.err, re.MULTILINE)) <= 1
        return int(ended.value.code or 0), captured.err

    return call


def change(place: Path, name: str, made: Change, *, hashed: bool = True) -> None:
    """Change a file of a bundle, and the hash that its manifest has of it."""
    document = json.loads((place / name).read_text())
    found = made(document)
    (place / name).write_text(found if isinstance(found, str) else json.dumps(document))
    if hashed and name != "bundle.json":
        digest = hashlib.sha256((place / name).read_bytes()).hexdigest()
        change(place, "bundle.json", lambda manifest: manifest["files"].update({name: digest}))


def put(*path: Any, value: Json) -> Change:
    """A change of one place."""

    def made(document: Json) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return made


def test_what_was_written_is_read(good: Path, run: Run) -> None:
    found = read_bundle(good)
    found.verify()
    assert (is_bundle(good), found.has_graph, found.manifest["step"]) == (True, True, 7)
    assert "fromage-diag" in found.written_by and "torch" in found.written_by
    checkpoint = open_checkpoint(str(good))
    assert checkpoint.optimizer is not None and checkpoint.optimizer.kind == "adamw"
    assert run("breakdown", good)[0] == 0


MANIFESTS: dict[str, Change] = {
    "null": lambda manifest: "null",
    "a list": lambda manifest: "[]",
    "a text": lambda manifest: '"bundle"',
    "nothing": lambda manifest: "",
    "cut off": lambda manifest: json.dumps(manifest)[:-40],
    "no JSON": lambda manifest: "import os",
    "lists without end": lambda manifest: "[" * 200_000,
    "objects without end": lambda manifest: '{"a":' * 200_000,
    "another format": put("format", value="torch"),
    "no version": put("version", value=None),
    "a version that is a text": put("version", value="1"),
    "a newer version": put("version", value=99),
    "no files": put("files", value=None),
    "files that are a list": put("files", value=["model.safetensors"]),
    "no weights": lambda manifest: manifest["files"].pop("model.safetensors") and None,
    "a file above": put("files", "../model.safetensors", value="0" * 64),
    "a file of the machine": put("files", "/etc/passwd", value="0" * 64),
    "another file": put("files", "notes.txt", value="0" * 64),
    "a hash that is a number": put("files", "graphs.json", value=3),
    "a wrong hash": put("files", "graphs.json", value="0" * 64),
    "no arrangement": put("batch", value=None),
    "a batch of a tensor that is not there": put("batch", value={"tensor": 99}),
    "a batch of code": put("batch", value={"call": "os.system"}),
    "a batch of two kinds": put("batch", value={"tensor": 0, "value": 1}),
    "a batch that is a number": put("batch", value={"value": 3}),
    "a batch of pairs that are none": put("batch", value={"dict": [1, 2]}),
    "a loss of the user's": put("loss", value={"name": "mine", "spec": "file.py:loss"}),
    "a loss of a module": put("loss", value={"name": "mine", "spec": "os:system"}),
    "no loss": put("loss", value=None),
    "a loss that is a list": put("loss", value={"name": "x", "spec": []}),
    "an optimizer that is a list": put("optimizer", value=[]),
    "an optimizer without groups": put("optimizer", value={"groups": None}),
    "groups that are numbers": put("optimizer", "groups", value=[1]),
    "a group without names": put("optimizer", "groups", 0, "params", value=3),
    "numbers that are a list": put("optimizer", "numbers", value=[1]),
}
WITHOUT_OPTIMIZER = ("numbers that are a list", "groups that are numbers", "a group without names")
"""What names no state is none, as in a checkpoint of torch."""


def deep_batch(manifest: Json) -> str:
    """A batch of lists without end."""
    manifest["batch"] = "HERE"
    return json.dumps(manifest).replace('"HERE"', '{"list":[' * 50_000 + '{"value":1}' + "]}" * 50_000)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_was_changed_is_one_message(place: Path, run: Run, name: str) -> None:
    change(place, "bundle.json", MANIFESTS[name])
    code, err = run("suggest-lr", place, "--probe", "none", "--no-sharpness")
    assert code in (3, 4) or (code == 0 and name in WITHOUT_OPTIMIZER), err
    assert code == 0 or "hint: " in err


def test_a_newer_bundle_says_so(place: Path, run: Run) -> None:
    change(place, "bundle.json", MANIFESTS["a newer version"])
    code, err = run("breakdown", place)
    assert (code, "format 99" in err, "newer fromage-diag" in err) == (3, True, True)


def test_a_batch_without_end_is_one_message(place: Path, run: Run) -> None:
    change(place, "bundle.json", deep_batch)
    assert run("breakdown", place)[0] == 3


GRAPHS: dict[str, Change] = {
    "null": lambda graphs: "null",
    "a list": lambda graphs: "[]",
    "nothing": lambda graphs: "",
    "lists without end": lambda graphs: "[" * 200_000,
    "no graphs": put("graphs", value={}),
    "an unknown mode": lambda graphs: put("graphs", "__class__", value=graphs["graphs"]["eval"])(graphs),
    "a graph that is none": put("graphs", "train", value=None),
    "no network": put("network", value=None),
    "no modules": put("network", "modules", value={}),
    "no inputs": put("inputs", value=None),
    "inputs that are texts": put("inputs", value=["x"]),
    "a precision by a walk": put("dtype", value="float32.__class__"),
    "a precision that is a number": put("dtype", value="int64"),
    "a precision that is a list": put("dtype", value=["float32"]),
    "a shape of 2^60": put("network", "parameters", "0.weight", "shape", value=[1 << 60]),
    "a tie to nothing": put("network", "ties", value={"0.weight": "3.weight"}),
    "ties that are a list": put("network", "ties", value=["0.weight"]),
    "ties in a circle": put("network", "ties", value={"0.weight": "2.weight", "2.weight": "0.weight"}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_were_changed_are_one_message(place: Path, run: Run, name: str) -> None:
    change(place, "graphs.json", GRAPHS[name])
    code, err = run("breakdown", place)
    assert code in (3, 4) or (code == 5 and name == "ties in a circle"), err
    assert "error: " in err and "hint: " in err


def test_graphs_of_another_bundle_are_refused(place: Path, run: Run) -> None:
    change(place, "graphs.json", put("with_loss", value=True), hashed=False)
    code, err = run("breakdown", place)
    assert (code, "not the file that the bundle's manifest names" in err) == (3, True)


@pytest.mark.parametrize("name", ["graphs.json", "constants.safetensors", "batch.safetensors", "model.safetensors"])
def test_a_file_that_is_missing_or_other_is_refused(place: Path, run: Run, name: str) -> None:
    data = (place / name).read_bytes()
    (place / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if name != "model.safetensors":  # its numbers are not hashed at each command: they are the checkpoint
        assert run("breakdown", place)[0] == 3
    with pytest.raises(InputError):
        read_bundle(place).verify()
    (place / name).unlink()
    assert run("breakdown", place)[0] == 3


def test_a_link_out_of_the_bundle_is_not_followed(place: Path, run: Run, tmp_path: Path) -> None:
    (place / "graphs.json").rename(tmp_path / "elsewhere.json")
    (place / "graphs.json").symlink_to(tmp_path / "elsewhere.json")
    assert run("breakdown", place)[0] in (3, 4)


def test_a_header_of_a_tensor_file_is_checked(place: Path, run: Run) -> None:
    header = json.dumps({"0": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (place / "batch.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    digest = hashlib.sha256((place / "batch.safetensors").read_bytes()).hexdigest()
    change(place, "bundle.json", put("files", "batch.safetensors", value=digest))
    assert run("breakdown", place)[0] == 3


def test_nothing_is_executed(place: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the factory that the manifest names, nor a module beside the bundle, is imported."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    changes = [put("factory", value="evil:build"), put("network", value="evil:build")]
    for made in [*changes, put("loss", value={"name": "evil:build", "spec": "evil:build"})]:
        change(place, "bundle.json", made)
        run("breakdown", place)
    change(place, "bundle.json", lambda manifest: manifest["files"].pop("graphs.json") and None)
    code, err = run("breakdown", place)
    assert (code, "evil:build" in err) == (5, True)
    assert not (tmp_path / "ran").exists()


def test_the_reason_for_no_graph_is_shown_safely(place: Path, run: Run) -> None:
    def without(manifest: Json) -> None:
        manifest["files"].pop("graphs.json")
        manifest["graph"] = {"missing": "\x1b[31mred\n\nerror: " + "x" * 100_000}
        manifest["factory"] = "\x1b]0;title\x07" + "y" * 100_000

    change(place, "bundle.json", without)
    code, err = run("breakdown", place)
    assert code == 5
    assert "\x1b" not in err and len(err) < 5000
