import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fromage_cli.errors import InputError, UsageError
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer
from fromage_cli.terminal.documents import DOCUMENTS, document
from fromage_cli.terminal.envelope import Circumstances

CALL = Circumstances("check", {"fail_on": "fail"}, 1.5, ("runs/a",))
ANSWER = Answer({"x": 1}, page=lambda style: "")
FINDINGS = ("github", "junit", "prom")


def test_json_is_an_object_for_one_and_an_array_for_several():
    assert json.loads(document("json", [ANSWER], CALL))["status"] == "ok"
    both = [ANSWER, InputError("gone.")]
    assert [one["status"] for one in json.loads(document("json", both, CALL))] == ["ok", "error"]
    assert [json.loads(line)["status"] for line in document("jsonl", both, CALL).splitlines()] == ["ok", "error"]


@pytest.mark.parametrize("format", FINDINGS)
def test_an_estimate_has_no_findings_and_is_no_verdict(format):
    with pytest.raises(UsageError, match="--estimate"):
        document(format, [estimate_answer(Estimate(1.0, None, None))], CALL)


def told_error(format: str, text: str) -> str:
    """The code of the error that a document tells."""
    if format == "junit":
        return ElementTree.fromstring(text).find("testsuite/testcase/error").get("type")
    if format == "prom":
        exits = [line for line in text.splitlines() if line.startswith("fromage_diag_exit_code")]
        return {"2": "usage", "3": "input", "6": "numerics", "130": "terminated"}[exits[0].split()[-1]]
    return text.splitlines()[0].partition("::error title=fromage-diag measure%3A ")[2].partition("::")[0]


@pytest.mark.parametrize("format", FINDINGS)
@pytest.mark.parametrize(("how", "code"), [("input", 3), ("numerics", 6), ("partial", 6)])
def test_an_error_is_told_where_the_answer_would_be(call, format, how, code):
    outcome = call("measure", "--how", how, "--format", format)
    assert outcome.code == code
    assert told_error(format, outcome.out) == ("input" if how == "input" else "numerics")


@pytest.mark.parametrize("format", FINDINGS)
def test_a_wrong_command_line_is_told_too(call, format):
    outcome = call("measure", "--mode", "fast", "--format", format)
    assert (outcome.code, told_error(format, outcome.out)) == (2, "usage")
    outcome = call("measure", "--estimate", "--format", format)
    assert (outcome.code, told_error(format, outcome.out)) == (2, "usage")


@pytest.mark.parametrize(("format", "name"), [("prom", "a.prom"), ("junit", "a.xml")])
def test_an_error_replaces_the_file_of_the_call_before(call, format, name):
    assert call("measure", "-o", name).code == 0
    before = Path(name).read_text()
    assert told_error(format, call("measure", "-o", name, "--how", "numerics").out) == "input"  # as it exists
    assert Path(name).read_text() == before
    assert call("measure", "-o", name, "--how", "numerics", "--force").out == ""
    assert told_error(format, Path(name).read_text()) == "numerics"
    assert [path.name for path in Path().iterdir()] == [name]


def test_an_error_replaces_no_other_file(call):
    Path("a.prom").write_text("weights")
    assert call("measure", "a.prom", "-o", "a.prom", "--how", "numerics", "--force").code == 2
    assert call("measure", "-o", "a.prom", "--mode", "fast", "--force").code == 2  # before the place is known
    assert Path("a.prom").read_text() == "weights"


def test_every_document_is_a_format_that_help_names(call):
    told = call("measure", "--help").out
    assert [format for format in DOCUMENTS if format not in told] == []
