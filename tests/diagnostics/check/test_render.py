"""The page of a verdict."""

from functools import partial
from pathlib import Path

from fromage_cli.diagnostics.check.examination import Examination
from fromage_cli.diagnostics.check.render import advise, finding_table, headline, render, sentence, verdict_of
from fromage_cli.diagnostics.check.result import CheckResult, Skipped
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer
from tests.diagnostics.pages import compare, drawn

golden = partial(compare, Path(__file__).parent / "golden")
WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8", layer="output.weight", hint="Lower the rate.")
FAIL = Finding("tensor-not-finite", "fail", "the weights hold NaN", layer="first", hint="Load another file.")


def test_the_verdict_is_that_of_the_gravest_finding() -> None:
    info = Finding("x", "info", "small")
    assert [verdict_of(found) for found in ((), (info,), (WARN, info), (FAIL, WARN))] == [
        "go on",
        "go on",
        "look",
        "stop",
    ]
    assert sentence("stop", (FAIL,), 3) == "Stop: first: the weights hold NaN."
    assert sentence("go on", (), 3) == "Go on: 3 commands found nothing wrong."
    assert (advise("go on", (info,)), advise("look", (WARN,))) == ("Train on.", "Lower the rate.")


def test_the_page() -> None:
    answers = {
        name: Answer(1, lambda style: "", findings=found) for name, found in (("inspect", ()), ("norms", (WARN,)))
    }
    skipped = (Skipped("sharpness", "No network is given."), Skipped("breakdown", "No network is given."))
    examination = Examination(answers, list(skipped))
    result = CheckResult("look", tuple(answers), skipped, examination.results)
    golden("page-80.txt", drawn(lambda found, style: render(found, examination, style), result, 80))
    assert [row[:3] for row in finding_table(examination).rows] == [("norms", "warn", "norm-jumped")]
    assert dict(row[:2] for row in headline(result, (WARN,)).rows)["warn"] == 1
