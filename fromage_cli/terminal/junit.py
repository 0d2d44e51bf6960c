"""JUnit's XML, which GitLab, Jenkins and others show: a suite for each answer, a test case for each look.

https://github.com/testmoapp/junitxml describes what they have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fromage_cli import __version__
from fromage_cli.errors import FromageError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.envelope import Circumstances
from fromage_cli.terminal.rows import cell, finding_line
from fromage_cli.terminal.words import visible, visible_lines

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


@dataclass(frozen=True)
class _Case:
    name: str
    findings: Sequence[Finding] = ()
    skipped: str | None = None
    error: FromageError | None = None


def test_report(results: Sequence[Answer | FromageError], circumstances: Circumstances) -> str:
    """A suite for each result; failures are `fail`, and `warn` where `--fail-on` counts warnings."""
    from xml.etree import ElementTree

    report = ElementTree.Element("testsuites", name="fromage-diag")
    for result in results:
        report.append(_suite(result, circumstances, len(results) > 1))
    for count in ("tests", "failures", "errors", "skipped"):
        report.set(count, str(sum(int(suite.get(count, "0")) for suite in report)))
    ElementTree.indent(report)
    return ElementTree.tostring(report, encoding="unicode") + "\n"


def _suite(result: Answer | FromageError, circumstances: Circumstances, several: bool) -> "Element":
    """The cases of one result below its numbers; of several results each is named after its checkpoint."""
    from xml.etree.ElementTree import Element, SubElement

    title = f"fromage-diag {circumstances.command or ''}".strip()
    checkpoints = result.checkpoints if isinstance(result, Answer) else ()
    place = visible(checkpoints[-1].path) if checkpoints else ""
    suite = Element("testsuite", name=f"{title} {place}".strip())
    if circumstances.seconds is not None:
        suite.set("time", f"{circumstances.seconds:.3f}")
    properties = SubElement(suite, "properties")
    numbers = result.numbers if isinstance(result, Answer) else ()
    step = checkpoints[-1].step if checkpoints else None
    told: list[tuple[str, object]] = [("version", __version__), ("checkpoint", place or None), ("step", step)]
    told += [(name, value) for name, value, _ in numbers]
    for name, value in told:
        if value is not None:
            SubElement(properties, "property", name=visible(name), value=cell(value))
    # Jenkins takes what stands before the last point for a package
    group = f"{title} {place}".replace(".", "_") if several else title
    for case in _cases(result, circumstances):
        suite.append(_test_case(case, group, circumstances.fail_on))
    suite.set("tests", str(len(suite.findall("testcase"))))
    for count, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(len(suite.findall(f"testcase/{kind}"))))
    return suite


def _cases(result: Answer | FromageError, circumstances: Circumstances) -> list[_Case]:
    """Of an answer its looks, or a case for each kind of finding; one that passes where there are none; the error."""
    error = result.error if isinstance(result, Answer) else result
    cases: list[_Case] = []
    if isinstance(result, Answer):
        codes = dict.fromkeys(finding.code for finding in result.findings)
        kinds = [_Case(code, [one for one in result.findings if one.code == code]) for code in codes]
        cases += [_Case(look.command, look.findings, look.skipped) for look in result.looks] or kinds
    if error is not None:
        cases.append(_Case(error.code, error=error))
    return cases or [_Case(circumstances.command or "")]


def _test_case(case: _Case, group: str, fail_on: str) -> "Element":
    """One test case with one outcome, which is all that some readers take; other findings stand in its output."""
    from xml.etree.ElementTree import Element, SubElement

    element = Element("testcase", classname=group, name=visible(case.name))
    counted = ("fail", "warn") if fail_on == "warn" else ("fail",)
    failures = [finding for finding in case.findings if finding.severity in counted]
    others = [finding for finding in case.findings if finding.severity not in counted]
    if case.error is not None:
        told = SubElement(element, "error", type=case.error.code, message=visible(case.error.message))
        told.text = visible_lines(f"{case.error.message}\n{case.error.hint}".strip())
    elif case.skipped is not None:
        SubElement(element, "skipped", message=visible(case.skipped))
    elif failures:
        kind = "failure" if any(finding.severity == "fail" for finding in failures) else "warning"
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        told = SubElement(element, "failure", type=kind, message=finding_line(failures[0]) + more)
        told.text = "\n".join(map(finding_line, failures))
    if others:
        SubElement(element, "system-out").text = "\n".join(map(finding_line, others))
    return element
