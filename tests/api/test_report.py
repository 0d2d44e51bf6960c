from fractions import Fraction

import pytest
from torch import Tensor, nn

from fromage_cli import api
from fromage_cli.api.report import Report
from fromage_cli.errors import ResourceError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, PageStyle, summary


def answer(**given: object) -> Answer:
    def page(style: PageStyle) -> str:
        return f"<a & b> in {style.width} columns"

    finding = Finding("too-much", "warn", "it is too much", hint="take less")
    tables = {"summary": lambda: summary([("loss", 2.0, "")])}
    return Answer({"loss": 2.0}, page, tables=tables, header=("a network",), findings=(finding,), **given)  # type: ignore[arg-type]


def test_a_report_has_the_result_the_findings_and_the_tables() -> None:
    error = ResourceError("The time limit was reached.")
    report = Report("breakdown", answer(error=error, notes=("b",), details=("a",)))
    assert report.result == {"loss": 2.0}
    assert [finding.code for finding in report.findings] == ["too-much"]
    assert report.tables["summary"].rows == (("loss", 2.0, ""),)
    assert report.notes == ("a", "b") and report.error is error
    assert repr(report) == "<breakdown: dict, 1 findings>"


def test_the_text_is_the_page_of_a_pipe() -> None:
    lines = str(Report("breakdown", answer())).splitlines()
    assert lines == ["a network", "", "<a & b> in 80 columns", "warn  it is too much", "What now: take less"]


def test_a_notebook_gets_the_page_as_text_and_as_html() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(Report("breakdown", answer()))
    assert shown["text/plain"] == str(Report("breakdown", answer()))
    assert "&lt;a &amp; b&gt; in 100 columns" in shown["text/html"]
    assert Report("breakdown", answer())._repr_html_() == shown["text/html"]


def test_a_frozen_report_holds_exact_numbers() -> None:
    report = api.breakdown(nn.Linear(1, 1, bias=False), {"x": _row(), "y": _row()}, "mse", dtype="float64")
    assert Fraction(report.result.loss).limit_denominator(10) >= 0
    with pytest.raises(AttributeError):
        report.command = "norms"  # type: ignore[misc]


def _row() -> Tensor:
    return Tensor([[1.0], [2.0]])
