"""The page of `doctor`: whether everything works here, then each check with what it found."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.doctor.checks import Check, checks
from fromage_cli.doctor.result import OWN, DoctorResult
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, known, known_values
from fromage_cli.terminal.answer import PageStyle, Table, summary
from fromage_cli.terminal.page import Fact, facts
from fromage_cli.terminal.tables import Column, house_table, prose
from fromage_cli.terminal.words import visible


def render(result: DoctorResult, findings: Sequence[Finding], style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    found = checks(result, findings)
    lines = [Fact(one.name, one.status, visible(one.what)) for one in found]
    parts: list[RenderableType] = [prose(answer(found), style), Text(""), facts(lines, style)]
    if result.configuration:
        columns = [Column("set", left=True), Column("to", left=True), Column("by", left=True), Column("", left=True)]
        rows = [
            (visible(one.name), visible(one.value), visible(one.where), "" if one.in_effect else "no effect")
            for one in result.configuration
        ]
        parts += [Text(""), house_table(columns, rows, style)]
    absent = [one for one in result.extras if isinstance(one.version, Missing)]
    if absent and style.verbose:
        parts += [Text(""), *(prose(f"{one.name}, for {one.purpose}: {one.install}", style) for one in absent)]
    if style.verbose and result.job.variables:
        parts += [Text(""), *(Text(visible(f"{one.name}={one.value}")) for one in result.job.variables)]
    return Group(*parts)


def answer(found: Sequence[Check]) -> str:
    """Whether everything works, or what needs the user."""
    wrong = [one.name for one in found if one.status in ("warn", "fail")]
    skipped = [one.name for one in found if one.status == "skipped"]
    if wrong:
        return f"{counted(len(wrong), 'thing')} {'needs' if len(wrong) == 1 else 'need'} you: {', '.join(wrong)}."
    if skipped:
        return f"What was looked at works. Not looked at: {', '.join(skipped)}."
    return "Everything works here."


def headline(result: DoctorResult, findings: Sequence[Finding]) -> Table:
    """The main numbers of the answer."""
    wrong = [one for one in checks(result, findings) if one.status in ("warn", "fail")]
    tests = () if isinstance(result.self_test, Missing) else result.self_test
    own = () if isinstance(result.attention, Missing) else (one for one in result.attention if one.backend == OWN)
    products = known_values(one.gap for one in own)
    return summary(
        [
            ("checks_that_need_you", len(wrong), "checks"),
            ("self_test_gap", max((test.largest_gap for test in tests), default=None), "relative gap"),
            ("attention_gap", max(products, default=None), "relative gap"),
            ("memory_available", known(result.memory.available), "bytes"),
            ("memory_limit", known(result.memory.limit), "bytes"),
        ]
    )
