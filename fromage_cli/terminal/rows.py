"""Tables for scripts: tab- and comma-separated values and Markdown, every row, nothing truncated."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from itertools import groupby

from fromage_cli.errors import UsageError
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing
from fromage_cli.terminal.answer import Answer, Table
from fromage_cli.terminal.plain import plain
from fromage_cli.terminal.words import nearest, visible

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with in a spreadsheet; some take the wide signs of East Asian scripts too."""
DIGITS = 4
"""Significant digits of a number in Markdown."""
ALIKE = 3
"""Findings of one kind that are said where not all are asked for."""


def chosen_table(answer: Answer, name: str | None) -> Table:
    """The table of that name, the main one without; raises UsageError with the names there are."""
    check_table(name, tuple(answer.tables))
    if not answer.tables:
        raise UsageError("This command has no table.", hint="Take another --format: rich or json.")
    return answer.tables[next(iter(answer.tables)) if name is None else name]()


def joined_table(answers: Sequence[Answer], name: str | None, several: bool) -> Table:
    """The tables of that name in one; where `several` were asked for, each row begins with its checkpoint's path."""
    tables = [chosen_table(answer, name) for answer in answers]
    if not several:
        return tables[0]
    columns = tuple(dict.fromkeys(column for table in tables for column in table.columns))
    places = [answer.checkpoints[0].path if answer.checkpoints else None for answer in answers]
    joined = (
        (place, *map(dict(zip(table.columns, row, strict=True)).get, columns))
        for place, table in zip(places, tables, strict=True)
        for row in table.rows
    )
    return Table(("checkpoint", *columns), tuple(joined))


def check_table(name: str | None, names: Sequence[str]) -> None:
    """Raise UsageError where the answer has no table of that name."""
    if name is not None and name not in names:
        raise UsageError(
            f"--table {visible(name)}: there is no such table.",
            hint=f"{nearest(name, names)}Tables are {', '.join(names)}.",
        )


def tsv(table: Table) -> str:
    """Tab-separated values; a tab or a line break inside a name is spelled out."""
    rows = [table.columns, *table.rows]
    return "".join("\t".join(cell(value) for value in row) + "\n" for row in rows)


def comma_separated(table: Table) -> str:
    """Comma-separated values, quoted where needed; a text that a spreadsheet would run begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_inert(cell(value)) for value in row] for row in (table.columns, *table.rows))
    return text.getvalue()


def _inert(text: str) -> str:
    """The text of a cell that no spreadsheet takes for a formula; numbers stay as they are."""
    if not text.startswith(FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def markdown(table: Table, findings: Sequence[Finding] = ()) -> str:
    """A Markdown table, its numbers rounded, with the findings as a list below it."""
    rows = [_markdown_row(table.columns), "|" + " --- |" * len(table.columns), *map(_markdown_row, table.rows)]
    text = "\n".join(rows) + "\n"
    if findings:
        text += "\n" + "".join(f"- {marked(finding_line(finding))}\n" for finding in findings)
    return text


def _markdown_row(row: Sequence[object]) -> str:
    return "| " + " | ".join(marked(_rounded(value)) for value in row) + " |"


def _rounded(value: object) -> str:
    """A cell for a person: a number in four significant digits."""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else cell(value)


def marked(text: str) -> str:
    """Text in which Markdown sees no markup."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in text)


def cell(value: object) -> str:
    """A value at full precision, empty where it is missing, `true` or `false`; no character that could break a line."""
    if value is None or isinstance(value, Missing):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, int):
        return int.__repr__(value)
    simple = plain(value, "", [])
    return cell(simple) if isinstance(simple, str | int | float) else json.dumps(simple, allow_nan=False)


def finding_lines(findings: Sequence[Finding], every: bool) -> list[str]:
    """A line for each finding; of many of one kind the first few and their number, unless `every` one is asked for."""
    lines: list[str] = []
    for (code, _), group in groupby(findings, key=lambda finding: (finding.code, finding.severity)):
        alike = list(group)
        shown = alike if every else alike[:ALIKE]
        lines += [finding_line(finding) for finding in shown]
        if len(shown) < len(alike):
            lines.append(f"{len(alike) - len(shown)} more of {code}; --all shows them")
    return lines


def finding_line(finding: Finding) -> str:
    """One line: severity, layer, sentence, remedy."""
    layer = f" {visible(finding.prefix)}:" if finding.prefix else ""
    hint = f" ({visible(finding.hint)})" if finding.hint else ""
    return f"{finding.severity}:{layer} {visible(finding.message)}{hint} [{finding.code}]"


WRITERS: dict[str, Callable[[Table], str]] = {"tsv": tsv, "csv": comma_separated}
