from functools import partial

from fromage_cli.diagnostics.inspect.result import NamedCode, SafetyResult
from fromage_cli.diagnostics.inspect.safety_page import ROWS, render_safety
from tests.diagnostics.pages import drawn

page = partial(drawn, render_safety, path="run/model.pt")


def named(name, verdict="inert", use="call", place="", module="pkg"):
    return NamedCode(place, module, name, use, verdict, "")


def test_what_would_run_comes_first_and_is_named_once():
    names = (named("Net", use="import+build"), named("system", "dangerous", place="a"), named("system", "dangerous"))
    lines = page(SafetyResult(2, names, ("b.pkl: cut off",))).splitlines()
    assert "2 pickles, 3 names: 2 would run code or reach files, 1 of unknown classes" in " ".join(lines)
    rows = [line for line in lines if "pkg." in line]
    assert "pkg.system" in rows[0] and "a and 1 more" in rows[0]
    assert "pkg.Net" in rows[1] and "import, set attributes" in rows[1] and len(rows) == 2
    assert lines[-1] == "read in part: b.pkl: cut off"


def test_loose_code_is_run():
    assert "run it" in page(SafetyResult(0, (named("model.py", use="code", module=""),), ()))


def test_more_rows_than_fit_are_counted():
    many = SafetyResult(1, tuple(named(f"C{index:03}") for index in range(ROWS + 2)), ())
    assert f"2 of {ROWS + 2} rows hidden" in page(many) and f"C{ROWS + 1:03}" in page(many, show_all=True)


def test_nothing_to_say():
    assert page(SafetyResult(0, (), ())).strip() == "run/model.pt: no pickles and no code were found in it."
