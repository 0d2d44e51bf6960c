"""The page a person sees: the verdict, the findings, and what was looked at and found well."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.check.findings import TOO_SHARP, sentence
from fromage_cli.diagnostics.check.forward_pass import FORWARD_PASS
from fromage_cli.diagnostics.check.result import CheckResult, Comparison, Verdict
from fromage_cli.diagnostics.check.rules import RULES
from fromage_cli.findings import Finding, gravest_remedy
from fromage_cli.missing import Missing
from fromage_cli.terminal.answer import Look, PageStyle, Table, records, summary
from fromage_cli.terminal.tables import finding_list, prose
from fromage_cli.terminal.words import visible

SHOWN = 5
"""Kinds of findings on a default page."""


def render(result: CheckResult, findings: Sequence[Finding], style: PageStyle) -> RenderableType:
    """The whole page; under `-v` the terminal lists every finding below it."""
    known = isinstance(result.baseline, Comparison) and bool(result.baseline.known)
    verdict = sentence(result.verdict, findings, len(result.looked), known=known)
    page: list[RenderableType] = [prose(verdict, style), Text("")]
    grave = [one for one in findings if one.severity != "info"]
    kinds = list(dict.fromkeys(one.code for one in grave))
    if not style.verbose:
        shown = [one for one in grave if style.show_all or one.code in kinds[:SHOWN]]
        if shown:
            page += [finding_list([with_source(one, result.looked) for one in shown], style), Text("")]
        hidden = [] if style.show_all else [counted(len(kinds) - SHOWN, "more kind")] if len(kinds) > SHOWN else []
        quiet = len(findings) - len(grave)
        hidden += [f"{counted(quiet, 'finding')} for information"] if quiet else []
        if hidden:
            page.append(prose(f"{' and '.join(hidden)}: -v", style, "dim"))
    if isinstance(result.baseline, Comparison):
        page.append(prose(in_words(result.baseline), style))
    troubled = {told_by(one) for one in grave}
    unjudged = unjudged_stability(result.results.get("sharpness"))
    if unjudged is not None:
        page.append(prose(f"Not judged by sharpness: whether the rate is stable, because {unjudged}.", style, "dim"))
        troubled.add("sharpness")
    signs = {told_by(one) for one in findings if one.severity == "info" and one.code in set().union(*TOO_SHARP)}
    if alone := [command for command in result.looked if command in signs - troubled]:
        words = "One sign of too large steps, which healthy runs have too"
        page.append(prose(f"{words}: {', '.join(alone)}. -v shows it.", style, "dim"))
        troubled.update(alone)
    if well := [command for command in result.looked if command not in troubled]:
        page.append(prose(f"Nothing wrong: {', '.join(well)}.", style))
    for reason in dict.fromkeys(one.reason for one in result.skipped):
        commands = ", ".join(one.command for one in result.skipped if one.reason == reason)
        page.append(prose(f"Not looked: {commands}. {reason}", style, "dim"))
    return Group(*page)


def unjudged_stability(sharpness: Any) -> str | None:
    """Why `sharpness` could not hold the rate against a limit; None where it did, or did not look."""
    ratio = None if sharpness is None else sharpness.ratio
    return ratio.words if isinstance(ratio, Missing) else None


def with_source(finding: Finding, looked: Sequence[str]) -> Finding:
    """The finding with the command that tells more of it, if that is among those that looked."""
    source = told_by(finding)
    if source not in looked or source in ("check", FORWARD_PASS) or finding.message.endswith(f": {finding.layer}"):
        return finding
    return replace(finding, message=f"{finding.message} ({source})")


def told_by(finding: Finding) -> str:
    """The command that tells more of a finding: `check` itself where it compares what others have read."""
    return RULES[finding.code].command if finding.code in RULES else "check"


def looks(result: CheckResult, findings: Sequence[Finding]) -> tuple[Look, ...]:
    """What each command had to say, `check` itself first, which also has what one said that tells no more."""
    by = {one: source if (source := told_by(one)) in result.looked else "check" for one in findings}
    looked = [
        Look(command, tuple(one for one in findings if by[one] == command)) for command in ("check", *result.looked)
    ]
    return (*looked, *(Look(one.command, skipped=one.reason) for one in result.skipped))


def in_words(baseline: Comparison) -> str:
    """What changed since the baseline, in a sentence."""
    parts = PurePath(baseline.checkpoint).parts[-2:]
    since = "the baseline" if not parts else f"{visible(str(PurePath(*parts)))} in the baseline"
    told = [
        f"{name}: {', '.join(codes)}"
        for name, codes in (("new", baseline.new), ("as before", baseline.known), ("gone", baseline.gone))
        if codes
    ]
    changed = f"{counted(len(baseline.changes), 'number')} changed by half or more"
    return f"Since {since}: {'; '.join([*told, changed])}."


def advise(verdict: Verdict, findings: Sequence[Finding]) -> str:
    """What the reader can do now."""
    return gravest_remedy(findings) if verdict != "go" else "Train on."


def finding_table(findings: Sequence[Finding]) -> Table:
    """Every finding with the command that tells more."""
    rows = [
        (told_by(one), one.severity, one.code, one.layer, one.message, one.value, one.limit, one.hint)
        for one in findings
    ]
    return Table(("command", "severity", "code", "layer", "message", "value", "limit", "hint"), tuple(rows))


def changes(result: CheckResult) -> Table:
    """The numbers that are another than in the baseline."""
    return records(result.baseline.changes if isinstance(result.baseline, Comparison) else ())


def headline(result: CheckResult, findings: Sequence[Finding]) -> Table:
    """The numbers that the page begins with."""
    counts: Mapping[str, int] = {
        severity: sum(one.severity == severity for one in findings) for severity in ("fail", "warn", "info")
    }
    return summary(
        [
            ("verdict", result.verdict, ""),
            *((name, count, "findings") for name, count in counts.items()),
            ("looked", len(result.looked), "commands"),
            ("skipped", len(result.skipped), "commands"),
        ]
    )
