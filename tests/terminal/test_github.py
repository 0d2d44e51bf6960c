import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.errors import NumericalError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, CheckpointRecord, Look
from fromage_cli.terminal.envelope import Circumstances
from fromage_cli.terminal.github import CUT, LARGEST_SUMMARY, annotations, append_summary, escaped, escaped_property

CALL = Circumstances("check", {}, 1.0)
COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")
"""What GitHub's runner takes for a workflow command of ours."""


def answer(*findings: Finding, **settings: object) -> Answer:
    record = CheckpointRecord("run/step-1.pt", "torch", 1, 10)
    return Answer({}, page=lambda style: "", findings=findings, checkpoints=(record,), **settings)


def read(text: str) -> list[tuple[str, str, str]]:
    """Level, title and message of every line, as the runner reads them."""
    found = [COMMAND.fullmatch(line) for line in text.split("\n")[:-1]]
    return [(one[1], unquote(one[2]), unquote(one[3])) for one in found]


def test_escaping_is_githubs():
    assert escaped("50%\r\n: a, b") == "50%25%0D%0A: a, b"
    assert escaped_property("50%\r\n: a, b") == "50%25%0D%0A%3A a%2C b"


@given(st.text(), st.text(), st.text())
def test_whatever_a_name_holds_each_finding_is_one_command(layer, message, hint):
    finding = Finding("too-hot", "warn", message, layer, hint=hint)
    ((level, title, _),) = read(annotations([answer(finding)], CALL))
    assert (level, title) == ("warning", "fromage-diag check: too-hot")


def test_a_finding_is_its_sentence_with_the_remedy_below():
    text = annotations([answer(Finding("too-hot", "fail", "it is 5 % off", "a.weight", hint="Cool it."))], CALL)
    assert text == "::error title=fromage-diag check%3A too-hot::a.weight: it is 5 %25 off%0ACool it.\n"


def test_a_healthy_answer_says_what_looked_and_what_did_not():
    looks = (
        Look("check"),
        Look("inspect"),
        Look("norms"),
        Look("state", skipped="No state."),
        Look("x", skipped="b\x1b"),
    )
    ((level, _, message),) = read(annotations([answer(looks=looks)], CALL))
    assert level == "notice"
    assert message.split("\n") == [
        "Go on: inspect, norms found nothing wrong.",
        "Not looked: state. No state.",
        r"Not looked: x. b\x1b",
    ]
    assert "norms found nothing wrong" in annotations([answer()], Circumstances("norms"))


@pytest.mark.parametrize(("count", "shown", "more"), [(9, 9, []), (10, 9, ["and 1 more"]), (500, 9, ["and 491 more"])])
def test_githubs_ten_of_a_level_are_never_exceeded(count, shown, more):
    many = [
        Finding("a", severity, f"number {index}") for severity in ("info", "warn", "fail") for index in range(count)
    ]
    found = read(annotations([answer(*many, error=NumericalError("no."))], CALL))
    for level, expected in (("warning", more), ("notice", more)):
        messages = [message for one, _, message in found if one == level]
        assert messages == [*(f"number {index}" for index in range(shown)), *expected]
    assert len([one for one in found if one[0] == "error"]) == 10
    assert found[0][2] == "no."


def test_of_several_answers_each_names_its_file():
    found = read(annotations([answer(Finding("a", "warn", "bad")), answer(), NumericalError("no.", "do this")], CALL))
    assert [message for _, _, message in found] == [
        "no.\ndo this",
        "run/step-1.pt: bad",
        "run/step-1.pt: Go on: check found nothing wrong.",
    ]


@pytest.fixture
def summary(clean, monkeypatch):
    """The file that GitHub asks for."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary")
    return clean / "summary"


def test_the_summary_has_every_finding_escaped_below_what_is_there(summary):
    summary.write_text("before\n")
    findings = [Finding("a", "info", f"number {index}", f"<img src=x>|{index}", hint="[x](y)") for index in range(40)]
    append_summary([answer(*findings, Finding("b", "fail", "bad\n\x1b"))], CALL)
    lines = summary.read_text().splitlines()
    assert lines[0] == "before" and "### fromage-diag check" in lines and "Stop: check looked." in lines
    assert len([line for line in lines if line.startswith("| info | \\<img src=x\\>\\|")]) == 40
    assert r"\[x\](y)" in summary.read_text() and r"bad\\n\\x1b" in summary.read_text()


def test_the_summary_tells_an_error(summary):
    append_summary([NumericalError("no_thing\nconverged.", "do this")], CALL)
    assert r"**Error**: no\_thing\\nconverged. do this" in summary.read_text()


@pytest.mark.parametrize("before", [0, LARGEST_SUMMARY - 3000, LARGEST_SUMMARY - 50, LARGEST_SUMMARY + 1])
def test_the_summary_stays_below_githubs_limit(summary, before):
    summary.write_text("x" * before)
    append_summary([answer(*(Finding("a", "warn", "größe" * 40) for _ in range(6000)))], CALL)
    written = summary.read_bytes()[before:].decode()
    assert before + len(written.encode()) <= max(LARGEST_SUMMARY, before)
    assert written == "" or (written.endswith(CUT) and written.removesuffix(CUT).endswith("|"))
    assert bool(written) is (before < LARGEST_SUMMARY - 50)


def test_without_a_summary_that_can_be_written_the_annotations_stand_alone(clean, monkeypatch, capsys):
    append_summary([answer()], CALL)
    assert list(clean.iterdir()) == []
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(clean))
    append_summary([answer()], CALL)
    assert capsys.readouterr().err == "note: the summary of this step is not written: Is a directory\n"


def test_the_program_writes_both(call, summary):
    outcome = call("measure", "--format", "github", "--severity", "warn", "--fail-on", "warn", "-q")
    assert (outcome.code, outcome.err) == (10, "")
    assert read(outcome.out) == [("warning", "fromage-diag measure: too-hot", "a.weight: it is hot\ncool it")]
    assert "| warn | a.weight | it is hot | cool it | too-hot |" in summary.read_text()
    assert call("measure", "--format", "github", "--how", "input").code == 3
    assert "**Error**: input happened." in summary.read_text()


@pytest.mark.parametrize("more", [(), ("--debug",)])
def test_an_error_about_the_command_line_is_no_command_to_the_runner(call, more):
    assert "There is no option --##[error]x." in call("measure", "--##[error]x", *more).err
    outcome = call("measure", "--##[error]x", *more, "--format", "github")
    assert "There is no option --# #[error]x." in outcome.err and "##[" not in outcome.err
    assert ("Traceback" in outcome.err) is bool(more)


def test_an_input_is_no_summary(call, monkeypatch, clean):
    (clean / "a.pt").write_text("weights")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(clean / "a.pt"))
    outcome = call("measure", "a.pt", "--format", "github")
    assert (outcome.code, (clean / "a.pt").read_text()) == (0, "weights")
    assert "is not written" in outcome.err
