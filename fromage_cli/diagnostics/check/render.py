"""The page a person sees: the verdict, and what was looked at."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.findings import sentence
from fromage_cli.diagnostics.check.measure import Examination
from fromage_cli.diagnostics.check.result import CheckResult, Verdict
from fromage_cli.findings import Finding, gravest_remedy
from fromage_cli.terminal.answer import Look, PageStyle, Table, summary
from fromage_cli.terminal.tables import Column, house_table, prose


def render(
    result: CheckResult, examination: Examination, findings: Sequence[Finding], style: PageStyle
) -> RenderableType:
    """The whole page, without the findings themselves."""
    page: list[RenderableType] = [prose(sentence(result.verdict, findings, len(result.looked)), style), Text("")]
    cells = []
    for command in result.looked:
        grave = [one for one in examination.answers[command].findings if one.severity != "info"]
        cells.append((command, counted(len(grave), "problem") if grave else "nothing wrong"))
    page.append(house_table([Column("command", name=True), Column("answer", left=True)], cells, style))
    reasons = dict.fromkeys(one.reason for one in result.skipped)
    for reason in reasons:
        commands = ", ".join(one.command for one in result.skipped if one.reason == reason)
        page.append(prose(f"Not looked: {commands}. {reason}", style, "dim"))
    return Group(*page)


def advise(verdict: Verdict, findings: Sequence[Finding]) -> str:
    """What the reader can do now."""
    return gravest_remedy(findings) if verdict != "go" else "Train on."


def looks(examination: Examination, findings: Sequence[Finding]) -> tuple[Look, ...]:
    """The findings by the command that tells more: `check` itself where it compares what others have read."""
    by = {one: command for command, answer in examination.answers.items() for one in answer.findings}
    looked = tuple(
        Look(command, tuple(one for one in findings if by.get(one, "check") == command))
        for command in ("check", *examination.answers)
    )
    return looked + tuple(Look(one.command, skipped=one.reason) for one in examination.skipped)


def finding_table(examination: Examination, findings: Sequence[Finding]) -> Table:
    """Every finding with the command that tells more."""
    by = {one: look.command for look in looks(examination, findings) for one in look.findings}
    rows = [
        (by[one], one.severity, one.code, one.layer, one.message, one.value, one.limit, one.hint) for one in findings
    ]
    return Table(("command", "severity", "code", "layer", "message", "value", "limit", "hint"), tuple(rows))


def headline(result: CheckResult, findings: Sequence[Finding]) -> Table:
    """The numbers that the page begins with."""
    counts = {severity: sum(one.severity == severity for one in findings) for severity in ("fail", "warn", "info")}
    return summary(
        [
            ("verdict", result.verdict, ""),
            *((name, count, "findings") for name, count in counts.items()),
            ("looked", len(result.looked), "commands"),
            ("skipped", len(result.skipped), "commands"),
        ]
    )
