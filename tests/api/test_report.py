import json
from pathlib import Path

import pytest

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
    assert lines == ["a network", "", "<a & b> in 80 columns", "warn  it is too much", "What now: Take less"]


def test_a_notebook_gets_the_page_as_text_and_as_html() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(Report("breakdown", answer()))
    assert shown["text/plain"] == str(Report("breakdown", answer()))
    assert "&lt;a &amp; b&gt; in 100 columns" in shown["text/html"]
    assert Report("breakdown", answer())._repr_html_() == shown["text/html"]


def test_a_report_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Report("breakdown", answer()).command = "norms"  # type: ignore[misc]


def test_the_notebook_of_the_pages_shows_a_page_with_a_table_and_a_plot(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    text = (Path(__file__).parents[2] / "docs" / "python.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    client(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output["output_type"] for output in outputs] == ["execute_result"] * 3
    shown = [output["data"] for output in outputs]
    assert "sure to η" in shown[0]["text/plain"] and "gradient change" in shown[0]["text/html"]
    assert shown[1]["image/svg+xml"].lstrip().startswith("<")
    assert "'0.weight'" in shown[2]["text/plain"]
    assert all(not cell.get("outputs") for cell in json.loads(text)["cells"])  # the tests make them anew
