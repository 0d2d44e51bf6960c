"""No input is ever overwritten: every way in which a file becomes one, and every way of naming it."""

import importlib
import json
import os
import py_compile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli import cli
from fromage_cli.errors import UsageError
from fromage_cli.terminal import input_files

MODEL = """
from torch import nn
from helping import width
def build(): return nn.Sequential(nn.Linear(2, width, bias=False), nn.Linear(width, 3, bias=False))
"""
BATCH = """
import json, torch
def batch():
    rows = json.loads(open("rows.json").read())
    return {"x": torch.tensor(rows), "y": torch.arange(2)}
"""
SEEN = ["--model", "net.py:build", "--batch", "data.py:batch", "--eta", "1e-3,1e-2"]


@pytest.fixture
def run_files(clean: Path) -> Path:
    """A run of two checkpoints with its log and its configuration, and code that reads a file of its own."""
    Path("run").mkdir()
    for step in (10, 20):
        weights = {"0.weight": torch.eye(4, 2) * step, "1.weight": torch.ones(3, 4)}
        save_file(weights, f"run/step-{step:06}.safetensors")
    Path("run/metrics.csv").write_text("step,loss\n10,1.5\n20,1.25\n")
    Path("run/config.json").write_text('{"activation": "none"}')
    Path("fromage.toml").write_text("seed = 3\n")
    Path("net.py").write_text(MODEL)
    Path("helping.py").write_text("width = 4\n")
    Path("data.py").write_text(BATCH)
    Path("rows.json").write_text("[[1.0, 2.0], [3.0, -1.0]]")
    Path("link.json").symlink_to("run/step-000020.safetensors")
    os.link("run/step-000020.safetensors", "other-name.json")
    return clean


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit:
        cli.main(list(arguments))
    return int(exit.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["inspect", "run"], "run/step-000020.safetensors"),
        (["inspect", "run"], "run/step-000010.safetensors"),  # which was not even opened
        (["inspect", "run"], "run/metrics.csv"),
        (["inspect", "run"], "run/config.json"),
        (["inspect", "run"], "link.json"),
        (["inspect", "run"], "other-name.json"),
        (["inspect", "file://{here}/run/step-000020.safetensors"], "run/step-000020.safetensors"),
        (["norms", "run/step-*.safetensors"], "run/step-000010.safetensors"),
        (["norms", "run/step-*.safetensors"], "other-name.json"),
        (["inspect", "run/step-000020.safetensors"], "fromage.toml"),
        (["breakdown", "run", *SEEN], "net.py"),
        (["breakdown", "run", *SEEN], "helping.py"),
        (["breakdown", "run", *SEEN], "data.py"),
        (["breakdown", "run", *SEEN], "rows.json"),
        (["breakdown", "run", *SEEN, "--direction", "to:run/step-000010.safetensors"], "run/step-000010.safetensors"),
    ],
)
def test_an_input_is_never_an_output(run_files, capsys, arguments, output):
    before = Path(output).read_bytes()
    arguments = [argument.format(here=run_files) for argument in arguments]
    code, words = outcome(capsys, *arguments, "-o", output, "--json", "--force")
    assert (code, "input" in words) == (2, True), words
    assert Path(output).read_bytes() == before
    assert not list(run_files.rglob("*.tmp"))


def test_a_module_whose_compiled_code_is_kept_is_an_input_too(run_files, monkeypatch):
    Path("kept_apart.py").write_text("width = 4\n")
    monkeypatch.syspath_prepend(str(run_files))
    py_compile.compile("kept_apart.py")
    with input_files.watched():
        importlib.import_module("kept_apart")
        with pytest.raises(UsageError, match="reads it as an input"):
            input_files.check_no_input(run_files / "kept_apart.py", b"other")


def test_a_picture_is_no_input_either(run_files, capsys):
    Path("rows.svg").write_text("[[1.0, 2.0], [3.0, -1.0]]")
    Path("data.py").write_text(BATCH.replace("rows.json", "rows.svg"))
    code, words = outcome(capsys, "breakdown", "run", *SEEN, "--plot", "rows.svg", "--force")
    assert (code, "input" in words, Path("rows.svg").read_text()[:2]) == (2, True, "[["), words


@pytest.mark.parametrize(
    "name",
    ["answer.json", "answer.jsonl", "answer.tsv", "answer.csv", "answer.md", "answer.txt", "answer.xml", "answer.prom"],
)
def test_a_former_answer_is_replaced_wherever_it_lies(run_files, capsys, name):
    for flags in ([], ["--force"]):
        code, words = outcome(capsys, "inspect", "run", "-o", f"run/{name}", *flags)
        assert code == 0, words
    code, words = outcome(capsys, "norms", "run", "-o", f"run/{name}", "--force")
    assert code == (2 if name in ("answer.tsv", "answer.csv", "answer.md") else 0), words  # of another command


def test_other_files_are_replaced_as_asked(run_files, capsys):
    for name in ("notes.md", "old.dat", "answer.csv"):
        Path(name).write_text("mine")
        assert outcome(capsys, "inspect", "run", "-o", name, "--format", "json", "--force")[0] == 0
        assert json.loads(Path(name).read_text())["command"] == "inspect"


def test_nothing_is_remembered_from_one_run_to_the_next(clean):
    Path("a.json").write_text("{}")
    with input_files.watched():
        Path("a.json").read_text()
        with pytest.raises(UsageError, match="reads it as an input"):
            input_files.check_no_input(Path("a.json").absolute(), b"other")
    with input_files.watched():
        input_files.check_no_input(Path("a.json").absolute(), b"other")


def test_what_was_opened_to_be_written_is_no_input(clean):
    with input_files.watched():
        Path("a.json").write_text("{}")
        input_files.check_no_input(Path("a.json").absolute(), b"other")


def test_a_working_directory_that_changes_in_between(clean):
    Path("a.toml").write_text("x = 1")
    with input_files.watched():
        Path("a.toml").read_text()
        Path("elsewhere").mkdir()
        os.chdir("elsewhere")
        with pytest.raises(UsageError):
            input_files.check_no_input(clean / "a.toml", b"other")
