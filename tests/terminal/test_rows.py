import csv
import io
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.errors import UsageError
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import Answer, Table, records
from fromage_cli.terminal.rows import cell, chosen_table, comma_separated, finding_line, markdown, tsv


@dataclass(frozen=True)
class Condition:
    first: float
    second: float | None


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, ...]
    condition: Condition | None
    dead: bool = False


@dataclass(frozen=True)
class Network:
    layer: Layer | None


def test_records_flatten_what_is_nested_and_leave_arrays_out():
    table = records([Layer("a", (2, 3), Condition(0.5, None)), Layer("b", (4,), Condition(1.0, 2.0), True)])
    assert table.columns == ("name", "condition_first", "condition_second", "dead")
    assert table.rows == (("a", 0.5, None, False), ("b", 1.0, 2.0, True))


def test_columns_do_not_depend_on_what_is_missing():
    whole = records([Layer("a", (2, 3), Condition(0.5, None))])
    for rows in ([Layer("b", (4,), None)], [Layer("b", (4,), None), Layer("a", (2, 3), Condition(0.5, None))]):
        assert records(rows).columns == whole.columns
        assert records(rows).rows[0] == ("b", None, None, False)


def test_a_missing_one_that_holds_others_has_all_their_columns_but_arrays():
    assert records([Network(None)]).columns == (
        "layer_name",
        "layer_condition_first",
        "layer_condition_second",
        "layer_dead",
    )
    assert records([Network(None)]).columns == records([Network(Layer("a", (2,), None))]).columns


def test_a_missing_number_is_an_empty_cell_and_a_missing_object_as_many():
    @dataclass(frozen=True)
    class Measured:
        name: str
        trust: float | Missing
        condition: Condition | Missing

    why = Missing(Why.NO_MODEL, "no model was given")
    found = records([Measured("a", why, why), Measured("b", 1.0, Condition(2.0, 3.0))])
    assert found.columns == ("name", "trust", "condition_first", "condition_second")
    assert found.rows == (("a", None, None, None), ("b", 1.0, 2.0, 3.0))
    assert tsv(Table(("a", "b"), ((why, 1.0),))) == "a\tb\n\t1.0\n"


def test_records_of_nothing():
    assert records([]) == Table((), ())


def test_records_refuse_what_has_no_names():
    with pytest.raises(TypeError):
        records([3])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (0.1, "0.1"),
        (1 / 3, "0.3333333333333333"),
        (1e-300, "1e-300"),
        (np.float64(0.1), "0.1"),
        (np.float32(0.5), "0.5"),
        (np.int64(3), "3"),
        (10**20, "100000000000000000000"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ("a\tb\nc", r"a\tb\nc"),
        ((1, 2), "[1, 2]"),
    ],
)
def test_cell(value, text):
    assert cell(value) == text


@given(st.lists(st.lists(st.text() | st.floats() | st.none(), min_size=3, max_size=3)))
def test_every_row_is_one_line_of_as_many_cells(rows):
    table = Table(("a", "b", "c"), tuple(map(tuple, rows)))
    lines = tsv(table).split("\n")
    assert lines[-1] == ""
    assert [len(line.split("\t")) for line in lines[:-1]] == [3] * (len(rows) + 1)
    read = list(csv.reader(io.StringIO(comma_separated(table))))
    written = [[cell(value) for value in row] for row in (table.columns, *rows)]
    assert [[text.removeprefix("'") for text in row] for row in read] == [
        [text.removeprefix("'") for text in row] for row in written
    ]
    assert not [text for row in read for text in row if text[:1] in tuple("=+-@") and not is_number(text)]


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\uff1d"])
def test_no_spreadsheet_runs_a_name(sign):
    table = Table(
        (f"{sign}a",), ((f"{sign}cmd|' /C calc'!A0",), (f"{sign}",), (f"a{sign}b",), (-0.5,), (-3,), (-math.inf,))
    )
    read = [row[0] for row in csv.reader(io.StringIO(comma_separated(table)))]
    assert read == [f"'{sign}a", f"'{sign}cmd|' /C calc'!A0", f"'{sign}", f"a{sign}b", "-0.5", "-3", "-inf"]
    assert tsv(table).splitlines()[1] == f"{sign}cmd|' /C calc'!A0"  # scripts read the name itself


def test_numbers_are_rounded_in_markdown_alone():
    table = Table(("x", "n"), ((1 / 3, 123456),))
    assert "| 0.3333 | 123456 |" in markdown(table)
    assert "0.333333333333333" in tsv(table)


def test_markdown():
    table = Table(("name", "eta"), (("a|b_c", 0.5), ("<d>", None)))
    finding = Finding("hot", "warn", "it is *hot*", "a_b", hint="cool it")
    assert markdown(table, [finding]) == (
        "| name | eta |\n| --- | --- |\n| a\\|b\\_c | 0.5 |\n| \\<d\\> |  |\n"
        "\n- warn: a\\_b: it is \\*hot\\* (cool it) \\[hot\\]\n"
    )


def test_a_finding_is_one_line():
    assert finding_line(Finding("c", "fail", "m\nn\x1b")) == r"fail: m\nn\x1b [c]"


def test_a_table_by_name():
    answer = Answer(None, page=lambda style: "", tables={"a": lambda: Table(("a",), ()), "b": lambda: Table((), ())})
    assert chosen_table(answer, None).columns == ("a",)
    assert chosen_table(answer, "b").columns == ()
    with pytest.raises(UsageError) as error:
        chosen_table(answer, "c")
    assert error.value.hint == "Nearest: b. Tables are a, b."
    with pytest.raises(UsageError, match="no table"):
        chosen_table(Answer(None, page=lambda style: ""), None)


def test_of_many_findings_of_one_kind_the_first_few_are_said():
    from fromage_cli.findings import Finding
    from fromage_cli.terminal.rows import finding_lines

    many = [Finding("early", "warn", f"number {index}") for index in range(5)]
    few = finding_lines([*many, Finding("noise", "info", "another")], every=False)
    assert len(few) == 5
    assert few[3] == "2 more of early; --all shows them"
    assert "another" in few[4]
    assert len(finding_lines(many, every=True)) == 5
