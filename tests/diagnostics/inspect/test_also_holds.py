"""What a file holds beside weights and optimizer, on the page, in tables and in JSON."""

import json
import math

import pytest
import torch

from fromage_cli.diagnostics.inspect.also_holds import NAMED, flattened, held_in_short
from fromage_cli.diagnostics.inspect.render import render
from tests.diagnostics.pages import drawn

SAVED = {
    "model": {"layers.0.weight": torch.ones(2, 3)},
    "model_args": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "bias": False, "vocab_size": 65},
    "iter_num": 2000,
    "best_val_loss": torch.tensor(2.41),
    "config": {f"k{index}": index for index in range(32)},
}


@pytest.fixture
def saved(tmp_path):
    torch.save(SAVED, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_one_line_names_what_there_is(run, saved):
    code, out, _ = run(saved, "--format", "rich")
    line = "model_args (6 entries), iter_num 2000, best_val_loss 2.41, config (32 entries)"
    assert code == 0 and f"Also holds  4 entries  {line}\n" in out
    assert "n_embd" not in out


@pytest.mark.parametrize("flag", ["-v", "--all"])
def test_all_of_it_is_shown_where_it_is_asked_for(run, saved, flag):
    _, out, _ = run(saved, "--format", "rich", flag)
    assert "Also in it:\n" in out and "  model_args.n_embd" in out and "384\n" in out and "  config.k31" in out


@pytest.mark.parametrize("flags", [(), ("--headers",)])
def test_scripts_get_it_as_json_and_as_a_table(run, saved, flags):
    result = json.loads(run(saved, "--json", *flags)[1])["result"]
    assert result["also_holds"]["model_args"] == SAVED["model_args"]
    assert result["also_holds"]["best_val_loss"] == pytest.approx(2.41)
    rows = run(saved, "--table", "also-holds", *flags)[1].splitlines()
    assert rows[0] == "name\tvalue" and "model_args.n_layer\t6" in rows and "model_args.bias\tfalse" in rows


def test_what_is_not_finite_is_null_and_said(run, tmp_path):
    torch.save({"model": SAVED["model"], "loss": math.nan}, tmp_path / "c.pt")
    envelope = json.loads(run(tmp_path / "c.pt", "--json")[1])
    assert envelope["result"]["also_holds"] == {"loss": None}
    assert {"path": "result.also_holds.loss", "value": "nan"} in envelope["nonfinite"]


@pytest.mark.parametrize(
    ("held", "line"),
    [
        ({}, ""),
        ({"format": "pt"}, ""),
        ({"step": 860}, ""),
        ({"step": "860", "format": "pt"}, ""),
        ({"step": 861}, "step 861"),
        ({"a": {"b": 1}, "c": [1, 2], "d": "x" * 50, "e": None}, "a (1 entry), c, d, e None"),
        ({"a": {"b": 1, "…": "7 more"}}, "a (1 and more entries)"),
        ({str(n): n for n in range(NAMED + 2)}, "0 0, 1 1, 2 2, 3 3, 4 4, 5 5, 2 more (-v)"),
    ],
)
def test_the_line(held, line):
    assert held_in_short(held, 860) == line


def test_rows_have_dotted_names():
    held = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}}
    assert list(flattened(held)) == [("a.b.c", 1), ("a.d", "[1, e 2]"), ("f", "empty")]


@pytest.mark.parametrize("width", [60, 80])
def test_names_and_texts_from_files_can_neither_act_nor_break_the_page(make_result, width):
    held = {"\x1b[31mred[bold]": "\x1b[2J\n" + "x" * 190, "n" * 199: {"m" * 199: 1}}
    page = drawn(render, make_result(also_holds=held), width, verbose=True)
    assert "\x1b" not in page and r"\x1b[31mred[bold]" in page.replace("\n", "")
    assert all(len(line) <= width for line in page.splitlines())
