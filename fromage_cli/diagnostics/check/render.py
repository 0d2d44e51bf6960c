"""The page a person sees: the verdict, and what was looked at."""

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.examination import Examination
from fromage_cli.diagnostics.check.result import CheckResult, Verdict
from fromage_cli.findings import Finding, gravest_remedy
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.tables import Column, house_table, prose

OPENINGS: dict[Verdict, str] = {"stop": "Stop", "look": "Look at this", "go on": "Go on"}


def verdict_of(findings: tuple[Finding, ...]) -> Verdict:
    """What the gravest finding means for the run."""
    gravest = findings[0].severity if findings else "info"
    return "stop" if gravest == "fail" else "look" if gravest == "warn" else "go on"


def sentence(verdict: Verdict, findings: tuple[Finding, ...], looked: int) -> str:
    """The verdict in one sentence."""
    if verdict == "go on":
        return f"Go on: {counted(looked, 'command')} found nothing wrong."
    first = findings[0]
    place = f"{first.layer}: " if first.prefix else ""
    return f"{OPENINGS[verdict]}: {place}{first.message.removesuffix('…').rstrip()}."


def render(result: CheckResult, examination: Examination, style: PageStyle) -> RenderableType:
    """The whole page, without the findings themselves."""
    findings = examination.findings
    page: list[RenderableType] = [prose(sentence(result.verdict, findings, len(result.looked)), style), Text("")]
    cells = []
    for command in result.looked:
        grave = [one for one in examination.answers[command].findings if one.severity != "info"]
        cells.append((command, f"{counted(len(grave), 'warning')}" if grave else "nothing wrong"))
    page.append(house_table([Column("command", name=True), Column("answer", left=True)], cells, style))
    reasons = dict.fromkeys(one.reason for one in result.skipped)
    for reason in reasons:
        commands = ", ".join(one.command for one in result.skipped if one.reason == reason)
        page.append(prose(f"Not looked: {commands}. {reason}", style, "dim"))
    return Group(*page)


def advise(verdict: Verdict, findings: tuple[Finding, ...]) -> str:
    """What the reader can do now."""
    return gravest_remedy(findings) if verdict != "go on" else "Train on."


def finding_table(examination: Examination) -> Table:
    """Every finding with the command that tells more."""
    rows = [
        (command, one.severity, one.code, one.layer, one.message, one.value, one.limit, one.hint)
        for command, answer in examination.answers.items()
        for one in answer.findings
    ]
    return Table(("command", "severity", "code", "layer", "message", "value", "limit", "hint"), tuple(rows))


def headline(result: CheckResult, findings: tuple[Finding, ...]) -> Table:
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
