import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from fromage_cli import __version__
from fromage_cli.errors import InputError, ResourceError
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import Answer, CheckpointRecord, Look, summary
from fromage_cli.terminal.envelope import Circumstances
from fromage_cli.terminal.junit import test_report as junit_report

FAIL = Finding("nan-weights", "fail", "3 entries are NaN", "a.weight", hint="Go back.")
WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8", "b.weight")
INFO = Finding("note", "info", "so it is")


def answer(*findings: Finding, **settings: object) -> Answer:
    record = CheckpointRecord("run/step-7.pt", "torch", 7, 10)
    return Answer({}, page=lambda style: "", findings=findings, checkpoints=(record,), **settings)


def report(*results, fail_on="fail", command="check") -> JUnitXml:
    text = junit_report(results, Circumstances(command, {"fail_on": fail_on}, 1.25))
    return JUnitXml.fromroot(JUnitXml.fromstring(text.encode())._elem)


def cases(read: JUnitXml) -> dict[str, list[tuple[type, str]]]:
    """By test case, what a reader shows of it."""
    return {case.name: [(type(one), one.message) for one in case.result] for suite in read for case in suite}


def test_each_look_of_a_check_is_a_case():
    looks = (Look("check"), Look("inspect", (FAIL, WARN)), Look("norms", (WARN,)), Look("state", skipped="No state."))
    read = report(answer(FAIL, WARN, looks=looks))
    assert cases(read) == {
        "check": [],
        "inspect": [(Failure, "fail: a.weight: 3 entries are NaN (Go back.) [nan-weights]")],
        "norms": [],
        "state": [(Skipped, "No state.")],
    }
    (suite,) = read
    assert suite.name == "fromage-diag check run/step-7.pt"
    assert (read.tests, read.failures, read.errors, read.skipped) == (4, 1, 0, 1)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped, suite.time) == (4, 1, 0, 1, 1.25)
    outputs = {case.name: case.system_out for case in suite}
    assert outputs["norms"] == "warn: b.weight: its norm went from 1 to 8 [norm-jumped]" == outputs["inspect"]


def test_a_warning_is_a_failure_where_it_fails_the_job():
    read = report(answer(WARN, WARN, INFO), fail_on="warn", command="norms")
    failure = cases(read)["norm-jumped"]
    assert failure == [(Failure, "warn: b.weight: its norm went from 1 to 8 [norm-jumped] (and 1 more)")]
    assert [one.type for suite in read for case in suite for one in case.result] == ["warning"]
    assert cases(read)["note"] == []
    assert cases(report(answer(WARN), fail_on="fail", command="norms")) == {"norm-jumped": []}


def test_nothing_found_is_a_case_that_passes():
    assert cases(report(answer(), command="inspect")) == {"inspect": []}


def test_an_error_is_an_error_also_beside_what_was_found():
    cut = ResourceError("The limit was reached.", "Give more time.")
    assert cases(report(InputError("gone.\nThere is a.pt."))) == {"input": [(Error, r"gone.\nThere is a.pt.")]}
    read = report(answer(FAIL, error=cut), command="norms")
    assert cases(read)["resources"] == [(Error, "The limit was reached.")]
    assert "nan-weights" in cases(read)
    (suite,) = read
    assert [one.text for case in suite for one in case.result][-1] == "The limit was reached.\nGive more time."


def test_numbers_are_properties():
    why = Missing(Why.NO_MODEL, "no model was given")
    table = summary(
        [("loss", 0.5, "loss"), ("optimizer", None, "name"), ("rate", why, "rate"), ("first", "a.w", "layer")]
    )
    (suite,) = report(answer(tables={"summary": lambda: table}))
    assert {one.name: one.value for one in suite.properties()} == {
        "version": __version__,
        "checkpoint": "run/step-7.pt",
        "step": "7",
        "loss": "0.5",
        "first": "a.w",
    }


def test_several_answers_are_as_many_suites_whose_cases_differ():
    other = Answer({}, page=lambda style: "", checkpoints=(CheckpointRecord("run/step-8.pt", "torch", 8, 10),))
    read = report(answer(FAIL), other, InputError("gone."), command="inspect")
    assert [suite.name.split()[-1] for suite in read] == ["run/step-7.pt", "run/step-8.pt", "inspect"]
    names = [(case.classname, case.name) for suite in read for case in suite]
    assert len(set(names)) == 3 and not [one for one, _ in names if "." in one]
    assert (read.tests, read.failures, read.errors) == (3, 1, 1)


@given(st.text(), st.text(), st.text())
def test_whatever_a_name_holds_the_file_is_well_formed(layer, message, hint):
    hostile = Finding("a", "fail", message, layer, hint=hint)
    looks = (Look("inspect", (hostile,)), Look("norms", skipped=message))
    read = report(answer(hostile, looks=looks, error=InputError(message, hint)))
    assert list(cases(read)) == ["inspect", "norms", "input"]


@pytest.mark.parametrize("text", ["\x00\x0b\x1b", "\ud800", "\ufffe\uffff", "]]>", "<!--", "&amp;", '"'])
def test_what_xml_forbids_is_spelled_out(text):
    looks = (Look("inspect", (Finding("a", "fail", f"[{text}]"),)),)
    ((_, message),) = cases(report(answer(looks=looks)))["inspect"]
    spelled = text.encode("unicode_escape").decode() if not text.isprintable() else text
    assert message == f"fail: [{spelled}] [a]"


def test_the_program_writes_it(call):
    outcome = call("measure", "--format", "junit", "--severity", "fail", "--fail-on", "fail", "-q")
    assert outcome.code == 11
    assert cases(JUnitXml.fromroot(JUnitXml.fromfile(io.StringIO(outcome.out))._elem)) == {
        "too-hot": [(Failure, "fail: a.weight: it is hot (cool it) [too-hot]")]
    }
