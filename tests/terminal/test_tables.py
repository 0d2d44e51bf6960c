import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, finding_list, hidden_rows, house_table, not_known

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = [
    Column("layer", name=True),
    Column("trust η"),
    Column("curve", left=True, optional=1),
    Column("weight norm", optional=2),
    Column("gradient norm", optional=3),
]
ROWS = [
    ("embedding.weight", 0.00431, "▁▂▅█", 12.0, 1.5e-7),
    ("transformer.blocks.11.attention.query_projection.weight", None, "▁▁▁▂", 1234.5, 0.25),
    ("evil\x1b[31m[bold]\u202e.weight", 1.2e-05, "█", float("nan"), float("inf")),
]
FINDINGS = [Finding("a", "warn", "η is low", "embedding.weight", hint="lower η"), Finding("b", "fail", "no trust")]


def drawn(width: int, ascii_only: bool = False) -> str:
    style = PageStyle(ascii_only=ascii_only, width=width)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(house_table(COLUMNS, ROWS, style), *hidden_rows(3, 10), finding_list(FINDINGS, style), sep="\n")
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_golden_pages(width, ascii_only):
    page = drawn(width, ascii_only)
    assert page == (GOLDEN / f"table-{width}{'-ascii' if ascii_only else ''}.txt").read_text("utf-8")
    assert all(cell_len(line) <= width for line in page.splitlines())
    assert page.isascii() or not ascii_only
    assert "\x1b" not in page and "\u202e" not in page


def test_the_names_of_all_rows_decide_what_is_dropped():
    console = Console(file=io.StringIO(), width=80)
    rows = [("a.0.weight", 1.0), ("a.1.weight", 2.0)]
    console.print(house_table(COLUMNS[:2], rows, PageStyle(), ["a.0.weight", "a.1.weight", "b.weight"]))
    console.print(house_table(COLUMNS[:2], rows, PageStyle(), ["a.0.weight", "a.1.bias"]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "layer (*.weight)" in shown and "a.0 " in shown and "a.1.weight" in shown


def test_no_number_is_cut_however_narrow():
    console = Console(file=io.StringIO(), width=20, color_system=None)
    columns = [Column("layer", name=True), *(Column(f"number {place}") for place in range(4))]
    table = house_table(
        columns, [("blocks.10.attention.query", 1.23e-05, 0.00123, 123456.0, -1.5e-07)], PageStyle(width=20)
    )
    console.print(table, crop=False)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in shown for text in ("1.23e-05", "0.00123", "123456", "-1.5e-07", "10"))


@pytest.mark.parametrize("width", range(20, 130, 7))
def test_a_row_is_one_line_at_any_width(width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(house_table(COLUMNS[:2], [row[:2] for row in ROWS], PageStyle(width=width)))
    lines = [line for line in console.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]
    assert len(lines) == len(ROWS) + 2


def test_an_empty_table():
    console = Console(file=io.StringIO(), width=80)
    console.print(house_table(COLUMNS, [], PageStyle()))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(column.header in shown for column in COLUMNS)


def test_hidden_rows():
    assert hidden_rows(10, 10) == []
    assert hidden_rows(3, 10)[0].plain == "7 more: --all"
    assert hidden_rows(3, 10, "from 1 to 2")[0].plain == "7 more, from 1 to 2: --all"


def test_reasons_are_said_once_with_the_fields_and_layers_that_they_explain():
    model, zero = Missing(Why.NO_MODEL, "no model was given"), Missing(Why.ZERO_OR_NOT_FINITE, "the norm is zero")
    layers = [
        SimpleNamespace(name=name, norm=1.0, trust=model, depth=SimpleNamespace(path=reason, count=reason), other=zero)
        for name, reason in (("a", zero), ("b\x1b[31m", zero), ("c", zero), ("d", 3.0))
    ]
    titles = {"norm": "norm", "trust": "trust η", "depth.path": "depth", "depth.count": "depth", "nowhere.at": "?"}
    lines = [line.plain for line in not_known(layers, titles, PageStyle())]
    assert lines == [
        "not known: trust η, because no model was given",
        "not known for a, b\\x1b[31m and 1 more: depth, because the norm is zero",
    ]
    assert not_known(layers, titles, PageStyle(ascii_only=True))[0].plain.isascii()
    network = SimpleNamespace(trust=model, norm=model)
    assert [line.plain for line in not_known([network], titles, PageStyle())] == [
        "not known: norm, trust η, because no model was given"
    ]
    assert not_known([], titles, PageStyle()) == []


def test_a_missing_number_is_a_dash():
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(house_table(COLUMNS[:2], [("a", Missing(Why.NO_RISE, "none was seen"))], PageStyle()))
    table = console.file.getvalue()  # type: ignore[attr-defined]
    assert "—" in table and "none" not in table


def test_layers_of_which_the_same_is_said_share_a_line():
    found = [Finding("a", "info", "doubles", name) for name in ("v", "w", "x", "y")]
    found += [Finding("a", "info", f"says {count}", "z") for count in range(3)]
    ending = " (3 more like it: --all)"
    for everything, first, lines in ((False, f"v, w, x …: doubles{ending}", 1), (True, "v, w, x, y: doubles", 4)):
        console = Console(file=io.StringIO(), width=80, color_system=None)
        console.print(finding_list(found, PageStyle(show_all=everything)))
        shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(shown) == lines and shown[0].strip() == f"info  {first}"


def test_the_code_of_a_finding_is_told_where_more_is_wanted():
    found = [Finding("too-odd", "warn", "is odd", layer=name, hint="Look at it.") for name in ("a", "b")]
    for verbose in (False, True):
        console = Console(width=80, file=io.StringIO())
        console.print(finding_list(found, PageStyle(verbose=verbose)))
        told = console.file.getvalue()
        assert told.count("More: fromage-diag explain too-odd") == int(verbose) == told.count("Look at it.")
