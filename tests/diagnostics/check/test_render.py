"""The page of a verdict."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from fromage_cli.diagnostics.check.render import advise, changes, finding_table, headline, looks, render
from fromage_cli.diagnostics.check.result import NO_BASELINE, Change, CheckResult, Comparison, Skipped, Verdict
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import Look
from tests.diagnostics.pages import compare, drawn

golden = partial(compare, Path(__file__).parent / "golden")
WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8", layer="output.weight", hint="Lower the rate.")


def test_what_to_do() -> None:
    assert (advise("go", ()), advise("look", (WARN,))) == ("Train on.", "Lower the rate.")


INFO = Finding("breakdown-early", "info", "early", layer="output.weight")
SKIPPED = (Skipped("sharpness", "No network is given."), Skipped("breakdown", "No network is given."))


def found(verdict: Verdict, baseline: Comparison | Missing = NO_BASELINE) -> CheckResult:
    return CheckResult(verdict, ("inspect", "norms"), SKIPPED, (), (), baseline, NO_BASELINE, {})


def test_the_page() -> None:
    far = replace(WARN, code="norm-far-from-first")
    before = Comparison("b.json", "runs/a/step-400.pt", 400, "look", ("norm-far-from-first",), (), ("rows-dead",), ())
    for name, findings, result in (
        ("page-80.txt", (far, INFO), found("look")),
        ("page-go-80.txt", (), found("go")),
        ("page-baseline-80.txt", (far,), found("look", before)),
    ):
        golden(name, drawn(lambda result, style, findings=findings: render(result, findings, style), result, 80))


def test_a_stability_that_could_not_be_judged_is_not_said_to_be_well() -> None:
    unknown = SimpleNamespace(ratio=Missing(Why.RESTS_ON_MISSING, "the optimizer is not known"))
    for sharpness, well in ((SimpleNamespace(ratio=0.9), True), (unknown, False)):
        result = replace(found("go"), looked=("inspect", "sharpness"), results={"sharpness": sharpness})
        page = drawn(lambda one, style: render(one, (), style), result, 160)
        assert ("Nothing wrong: inspect, sharpness." in page) == well
        assert ("whether the rate is stable, because the optimizer is not known." in page) == (not well)


def test_one_sign_of_two_is_neither_a_warning_nor_nothing() -> None:
    alone = replace(INFO, code="quadratic-model-rises")
    result = replace(found("go"), looked=("inspect", "sharpness"))
    page = drawn(lambda one, style: render(one, (alone,), style), result, 160)
    assert "which healthy runs have too: sharpness. -v shows it." in page and "Nothing wrong: inspect." in page


def test_more_kinds_than_fit_are_counted() -> None:
    many = tuple(replace(WARN, code=f"code-{place}") for place in range(9))
    page = drawn(lambda result, style: render(result, many, style), found("look"), 80)
    assert "4 more kinds: -v" in page and page.count("its norm went") == 6


def test_tables() -> None:
    far = replace(WARN, code="norm-far-from-first")
    assert [row[:3] for row in finding_table((far, WARN)).rows] == [
        ("norms", "warn", "norm-far-from-first"),
        ("check", "warn", "norm-jumped"),
    ]
    assert dict(row[:2] for row in headline(found("look"), (far,)).rows)["warn"] == 1
    before = Comparison("b.json", "", None, "go", (), (), (), (Change("norms", "growth", 1.0, 2.0),))
    assert changes(found("go", before)).rows == (("norms", "growth", 1.0, 2.0),)
    assert changes(found("go")).rows == ()
    assert looks(found("look"), (far, WARN)) == (
        Look("check", (WARN,)),
        Look("inspect"),
        Look("norms", (far,)),
        *(Look(one.command, skipped=one.reason) for one in SKIPPED),
    )
    away = replace(WARN, code="above-threshold")  # whose command did not look
    assert looks(found("look"), (away,))[0] == Look("check", (away,))
