"""House tables: bold header, numbers to the right, names cut in the middle, columns dropped before they wrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.rows import ALIKE
from fromage_cli.terminal.words import ascii_words, middles, number, visible

NARROWEST_NAME = (16, 24)
"""A name is never cut below so many cells, on a narrow terminal and on one of 72 columns or more."""
_GAP = 2
_ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Column:
    """One column of a house table."""

    header: str
    name: bool = False
    """Holds names: to the left, cut in the middle where room is short; other text is never cut."""
    left: bool = False
    """Holds words, to the left; numbers stand to the right."""
    optional: int = 0
    """Where room is short the column of the highest number goes first; 0 stays."""


class HouseTable:
    """A table that fits its width by cutting names, then by leaving optional columns out and saying so."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[object]], style: PageStyle) -> None:
        self.columns = list(columns)
        self.ascii_only = style.ascii_only
        self.headers = [self._plain(column.header) for column in columns]
        self.rows = [[self._cell(value) for value in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the width it is given."""
        kept = self._fitting(options.max_width)
        yield self._table(kept, options.max_width)
        hidden = [self.headers[index] for index in range(len(self.columns)) if index not in kept]
        if hidden:
            yield Text(f"hidden for want of width: {', '.join(hidden)}", style="dim")

    def _fitting(self, width: int) -> list[int]:
        """The columns that are shown, in their order: names may be cut, then the least wanted column goes."""
        kept = list(range(len(self.columns)))
        least = [
            min(self._width(index), _narrowest(width)) if column.name else self._width(index)
            for index, column in enumerate(self.columns)
        ]
        while sum(least[index] + _GAP for index in kept) > width:
            droppable = [index for index in kept if self.columns[index].optional]
            if not droppable:
                break
            kept.remove(max(droppable, key=lambda index: (self.columns[index].optional, index)))
        return kept

    def _width(self, index: int) -> int:
        cells = (cell_len(row[index].plain) for row in self.rows)
        return max(cell_len(self.headers[index]), *cells, 1)

    def _table(self, kept: Sequence[int], width: int) -> RichTable:
        table = RichTable(
            box=_ASCII_HEAD if self.ascii_only else box.SIMPLE_HEAD,
            header_style="bold",
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        names = [index for index in kept if self.columns[index].name]
        others = sum(self._width(index) for index in kept if index not in names)
        room = max((width - others - _GAP * len(kept)) // max(len(names), 1), _narrowest(width))
        cells = []
        for index in kept:
            column, texts = self.columns[index], [row[index] for row in self.rows]
            table.add_column(
                Text(self.headers[index]),
                justify="left" if column.name or column.left else "right",
                no_wrap=True,
                overflow="ellipsis" if not self.ascii_only else "crop",
            )
            if column.name:
                shorter = middles([text.plain for text in texts], room, self.ascii_only)
                texts = [Text(name, style=text.style) for name, text in zip(shorter, texts, strict=True)]
            cells.append(texts)
        for row in zip(*cells, strict=True):
            table.add_row(*row)
        return table

    def _cell(self, value: object) -> Text:
        if isinstance(value, Text):
            return Text(self._plain(value.plain), style=value.style)
        if value is None or isinstance(value, int | float | Missing):
            return Text(number(value, self.ascii_only))
        return Text(self._plain(str(value)))

    def _plain(self, text: str) -> str:
        text = visible(text)
        return ascii_words(text) if self.ascii_only else text


def _narrowest(width: int) -> int:
    low, high = NARROWEST_NAME
    return max(low, min(high, width // 3))


def house_table(columns: Sequence[Column], rows: Sequence[Sequence[object]], style: PageStyle) -> RenderableType:
    """Rows of texts and numbers as a house table; a cell that is a `Text` keeps its style."""
    return HouseTable(columns, rows, style)


def hidden_rows(shown: int, total: int) -> list[Text]:
    """A line that says how many rows are not shown; none where all are."""
    return [Text(f"{total - shown} of {total} rows hidden; --all shows them", style="dim")] if shown < total else []


NAMED = 2
"""Layers that are named beside a reason; of more, their number is said."""


def not_known(items: Sequence[object], titles: Mapping[str, str], style: PageStyle) -> list[Text]:
    """A line for each reason why fields of a result, or of its layers, are missing: `not known: X, Y, because …`.

    `titles`: what the fields (`a`, or `a.b` of a nested one) are called on this page; it says nothing of other fields,
    nor of what was not asked for or has no meaning there.
    """
    layers: dict[tuple[Missing, tuple[str, ...]], list[str]] = {}
    for item in items:
        reasons: dict[Missing, list[str]] = {}
        for field, title in titles.items():
            reason = reduce(lambda held, name: getattr(held, name, None), field.split("."), item)
            if not isinstance(reason, Missing) or reason.code in (Why.NOT_ASKED, Why.NOT_DEFINED):
                continue
            if title not in reasons.setdefault(reason, []):
                reasons[reason].append(title)
        for reason, missing in reasons.items():
            layers.setdefault((reason, tuple(missing)), []).append(getattr(item, "name", ""))
    lines = []
    for (reason, found), names in layers.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        where = f" for {', '.join(names[:NAMED])}{more}" if len(names) < len(items) else ""
        lines.append(prose(f"not known{where}: {', '.join(found)}, because {reason.words}", style, "dim"))
    return lines


class Harmless:
    """A page in which no name acts on the terminal, wherever it comes from; colours and line breaks are ours."""

    def __init__(self, page: RenderableType) -> None:
        self.page = page

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The page's segments, control characters in their texts spelled out."""
        for text, style, control in console.render(self.page, options):
            yield Segment("\n".join(map(visible, text.split("\n"))) if control is None else text, style, control)


_COLOURS = {"info": "dim", "warn": "yellow", "fail": "bold red"}


def finding_list(findings: Sequence[Finding], style: PageStyle) -> RenderableType:
    """Each finding beside its severity, the remedy below; of many of one kind the first few without `--all`."""
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for (code, severity), group in groupby(findings, key=lambda finding: (finding.code, finding.severity)):
        alike = list(group)
        shown = alike if style.show_all else alike[:ALIKE]
        for finding in shown:
            layer = f"{finding.layer}: " if finding.layer else ""
            grid.add_row(Text(severity, _COLOURS[severity]), prose(f"{layer}{finding.message}", style))
        if len(shown) < len(alike):
            grid.add_row("", Text(f"{len(alike) - len(shown)} more of {code}; --all shows them", "dim"))
        if shown[-1].hint:
            grid.add_row("", prose(shown[-1].hint, style, "dim"))
    return grid


def prose(text: str, style: PageStyle, colour: str = "") -> Text:
    """Sentences, in which no name can act, spelled in ASCII before they are broken into lines where need be."""
    return Text(ascii_words(visible(text)) if style.ascii_only else visible(text), colour)
