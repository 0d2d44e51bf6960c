from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.inspect.render import NAMES, render, render_safety, summary
from fromage_cli.diagnostics.inspect.result import NOT_READ, NamedCode, SafetyResult
from fromage_cli.missing import STEP_UNKNOWN
from tests.diagnostics.pages import compare, drawn

page = partial(drawn, render, path="run/step-400.pt")
safety_page = partial(drawn, render_safety, path="run/model.pt")
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 120])
def test_the_page(make_result, make_tensor, width):
    tensors = (make_tensor(spectral_norm=2.5, stable_rank=6.5, condition_number=1200.0), make_tensor("layers.1.weight"))
    golden(f"page-{width}.txt", page(make_result(tensors=tensors), width))


def test_offenders_come_first_and_hidden_rows_are_counted(make_result, make_tensor):
    tensors = (*(make_tensor(f"w{index}") for index in range(30)), make_tensor("broken", nonfinite=1))
    text = page(make_result(tensors=tensors))
    assert text.index("broken") < text.index("w0")
    assert "15 of 31 rows hidden" in text
    assert "not finite" in text
    assert "w29" in page(make_result(tensors=tensors), show_all=True)


def test_headers_alone(make_result, make_tensor):
    unread = make_tensor(**dict.fromkeys(("norm", "rms", "max_abs", "nonfinite", "nan", "zeros"), NOT_READ))
    text = page(make_result(tensors=(unread,), duplicates=NOT_READ))
    assert "64×64" in text and "norm" not in text and "zeros" not in text


def test_without_an_optimizer(make_result):
    result = make_result(optimizer=None, tied=(), key=None, step=STEP_UNKNOWN)
    assert "No optimizer state" in page(result)
    assert "tied" not in page(result)


@pytest.mark.parametrize(("count", "words"), [(1, "1 tensor,"), (2, "2 tensors,")])
def test_tensors_are_counted_in_words(make_result, count, words):
    assert words in summary(make_result(totals=replace(make_result().totals, tensors=count)), "c.pt")


def test_an_optimizer_of_unknown_kind(make_result):
    result = make_result()
    unknown = replace(result.optimizer, kind=None, step=STEP_UNKNOWN, slots=())
    assert "An optimizer of unknown kind; it remembers nothing." in page(replace(result, optimizer=unknown))


def test_names_cannot_act(make_result, make_tensor):
    text = page(make_result(tensors=(make_tensor("a\x1b[31m[bold]"),), tied=(("x\x1b", "y"),)), path="p\x1b")
    assert "\x1b" not in text and r"a\x1b[31m[bold]" in text and r"p\x1b" in text


def named(name, verdict="inert", use="call", place="", module="pkg"):
    return NamedCode(place, module, name, use, verdict, "")


def test_what_would_run_comes_first_and_is_named_once():
    names = (named("Net", use="import+build"), named("system", "dangerous", place="a"), named("system", "dangerous"))
    lines = safety_page(SafetyResult(2, names, ("b.pkl: cut off",))).splitlines()
    assert "2 pickles, 3 names: 2 would run code or reach files, 1 of unknown classes" in " ".join(lines)
    rows = [line for line in lines if "pkg." in line]
    assert "pkg.system" in rows[0] and "a and 1 more" in rows[0]
    assert "pkg.Net" in rows[1] and "import, set attributes" in rows[1] and len(rows) == 2
    assert lines[-1] == "read in part: b.pkl: cut off"


def test_loose_code_is_run():
    assert "run it" in safety_page(SafetyResult(0, (named("model.py", use="code", module=""),), ()))


def test_more_names_than_fit_are_counted():
    many = SafetyResult(1, tuple(named(f"C{index:03}") for index in range(NAMES + 2)), ())
    assert f"2 of {NAMES + 2} rows hidden" in safety_page(many)
    assert f"C{NAMES + 1:03}" in safety_page(many, show_all=True)


def test_no_pickles_and_no_code():
    page = safety_page(SafetyResult(0, (), ("x: a zlib stream was not looked into",)))
    assert "no code were found in what could be looked into, and not all could." in " ".join(page.split())
    assert safety_page(SafetyResult(0, (), ())).strip() == "run/model.pt: no pickles and no code were found in it."
