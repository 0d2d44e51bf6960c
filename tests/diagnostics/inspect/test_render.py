from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.inspect.render import render, render_safety, verdict
from fromage_cli.diagnostics.inspect.result import NOT_READ, LogResult, NamedCode, SafetyResult
from fromage_cli.missing import STEP_UNKNOWN
from fromage_cli.terminal.page import ROWS
from tests.diagnostics.pages import compare, drawn

page = partial(drawn, render)
safety_page = partial(drawn, render_safety)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_page(make_result, make_tensor, width):
    tensors = (make_tensor(spectral_norm=2.5, stable_rank=6.5, condition_number=1200.0), make_tensor("layers.1.weight"))
    golden(f"page-{width}.txt", page(make_result(tensors=tensors), width))


def test_offenders_come_first_and_hidden_rows_are_counted(make_result, make_tensor):
    small = [make_tensor(f"w{index}") for index in range(30)]
    tensors = (*small, make_tensor("large", max_abs=2.0), make_tensor("dead", zeros=4096))
    lines = page(make_result(tensors=(*tensors, make_tensor("broken", nonfinite=1)))).splitlines()
    rows = [line.split()[0] for line in lines if "64×64" in line]
    assert rows == ["broken", "dead", "large", "w0", "w1"]
    assert "28 more, no value in them beyond ±0.44 (sorted by largest): --all" in lines
    whole = page(make_result(tensors=tensors), show_all=True)
    assert whole.index("\ndead") < whole.index("\nlarge ") < whole.index("\nw0") < whole.index("\nw29")


def test_what_is_wrong_is_said_first(make_result, make_tensor):
    assert verdict(make_result()) == "Nothing wrong found."
    broken = (make_tensor(), make_tensor("w", nonfinite=1), make_tensor("v", nonfinite=1))
    assert verdict(make_result(tensors=broken[:2])) == "1 of 2 tensors holds NaN or infinite values: w."
    assert verdict(make_result(tensors=broken)) == "2 of 3 tensors hold NaN or infinite values (first w)."
    assert verdict(make_result(safety=(named("system", "dangerous"), named("Net")))).startswith(
        "1 of 2 names would run"
    )
    log = LogResult("log.csv", 3, 30, 0.5, 0.1, 1)
    assert "training loss" in verdict(make_result(logs=(log,)))


def test_headers_alone(make_result, make_tensor):
    unread = make_tensor(**dict.fromkeys(("norm", "rms", "max_abs", "nonfinite", "nan", "zeros"), NOT_READ))
    totals = replace(make_result().totals, nonfinite=NOT_READ, zeros=NOT_READ)
    text = page(make_result(tensors=(unread,), duplicates=NOT_READ, totals=totals))
    assert "64×64" in text and "norm" not in text and "zeros" not in text
    assert "the numbers themselves were" in text


def test_the_optimizer_is_one_line(make_result):
    result = make_result()
    assert "AdamW" in page(result) and "400 updates, rate 0.003, weight decay 0.1" in page(result)
    many = [replace(result.optimizer.groups[0], learning_rate=0.001 * (1 + index)) for index in range(5)]
    assert "rate 0.001 to 0.005, weight" in page(replace(result, optimizer=replace(result.optimizer, groups=many)))
    unknown = replace(result.optimizer, kind=None, step=STEP_UNKNOWN, slots=(), groups=())
    assert "unknown  no settings of it were saved" in page(replace(result, optimizer=unknown))
    assert "The optimizer remembers nothing." in page(replace(result, optimizer=unknown), verbose=True)
    assert "no optimizer state" in page(make_result(optimizer=None, tied=(), key=None, step=STEP_UNKNOWN))


def test_what_few_need_is_said_in_full(make_result):
    text = page(make_result(), verbose=True)
    assert "The tensors were taken from 'model'." in text and "0.9, 0.95" in text and "dtype" in text
    assert "0.9, 0.95" not in page(make_result())


def test_of_several_files_each_is_short(make_result):
    assert page(make_result(optimizer=None), brief=True) == "Nothing wrong found.\n"
    assert len(page(make_result(), brief=True).splitlines()) == 2


def test_names_cannot_act(make_result, make_tensor):
    text = page(make_result(tensors=(make_tensor("a\x1b[31m[bold]"),), tied=(("x\x1b", "y"),)))
    assert "\x1b" not in text and r"a\x1b[31m[bold]" in text and r"x\x1b = y" in text


def named(name, verdict="inert", use="call", place="", module="pkg"):
    return NamedCode(place, module, name, use, verdict, "")


def test_what_would_run_comes_first_and_is_named_once():
    names = (named("Net", use="import+build"), named("system", "dangerous", place="a"), named("system", "dangerous"))
    lines = safety_page(SafetyResult(2, names, ("b.pkl: cut off",))).splitlines()
    assert lines[0] == "2 of 3 names would run code. Nothing was imported or called here."
    rows = [line for line in lines if "Net" in line or "system" in line]
    assert "system" in rows[0] and "a and 1 more" in rows[0]
    assert "import, set attributes" in rows[1]
    assert lines[-1] == "read in part: b.pkl: cut off"


def test_loose_code_is_run():
    assert "run it" in safety_page(SafetyResult(0, (named("model.py", use="code", module=""),), ()))


def test_more_names_than_fit_are_counted():
    many = SafetyResult(1, tuple(named(f"C{index:03}") for index in range(ROWS + 2)), ())
    assert "2 more: --all" in safety_page(many)
    assert f"C{ROWS + 1:03}" in safety_page(many, show_all=True)


def test_no_pickles_and_no_code():
    page = safety_page(SafetyResult(0, (), ("x: a zlib stream was not looked into",)))
    assert "no code were found in what could be looked into." in page
    assert safety_page(SafetyResult(0, (), ())).strip() == "No pickles and no code were found."
    assert safety_page(SafetyResult(1, (), ())).startswith("No pickle names any code.")


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("allowed",), "None of 1 name would run code."),
        (("allowed", "unknown"), "1 of 2 names comes from other code"),
        (("inert", "unknown"), "2 of 2 names come from other code"),
    ],
)
def test_names_that_run_nothing(verdicts, words):
    names = tuple(named(f"C{index}", verdict) for index, verdict in enumerate(verdicts))
    assert words in safety_page(SafetyResult(1, names, ()))
