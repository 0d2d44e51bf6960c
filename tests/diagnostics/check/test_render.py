"""The page of a verdict."""

from functools import partial
from pathlib import Path

from fromage_cli.diagnostics.check.measure import Examination
from fromage_cli.diagnostics.check.render import advise, finding_table, headline, looks, render
from fromage_cli.diagnostics.check.result import CheckResult, Skipped
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, Look
from tests.diagnostics.pages import compare, drawn

golden = partial(compare, Path(__file__).parent / "golden")
WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8", layer="output.weight", hint="Lower the rate.")


def test_what_to_do() -> None:
    assert (advise("go", ()), advise("look", (WARN,))) == ("Train on.", "Lower the rate.")


def test_the_page() -> None:
    answers = {
        name: Answer(1, lambda style: "", findings=found) for name, found in (("inspect", ()), ("norms", (WARN,)))
    }
    skipped = (Skipped("sharpness", "No network is given."), Skipped("breakdown", "No network is given."))
    examination = Examination(answers, list(skipped))
    result = CheckResult("look", tuple(answers), skipped, (), examination.results)
    golden("page-80.txt", drawn(lambda found, style: render(found, examination, (WARN,), style), result, 80))
    assert [row[:3] for row in finding_table(examination, (WARN,)).rows] == [("norms", "warn", "norm-jumped")]
    assert looks(examination, (WARN,)) == (
        Look("check"),
        Look("inspect"),
        Look("norms", (WARN,)),
        Look("sharpness", skipped="No network is given."),
        Look("breakdown", skipped="No network is given."),
    )
    assert dict(row[:2] for row in headline(result, (WARN,)).rows)["warn"] == 1
