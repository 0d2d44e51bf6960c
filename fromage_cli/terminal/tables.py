"""House tables: bold header, numbers to the right, names shortened, columns dropped before a number is cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from fromage_cli.counting import first_names
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.names import DOTS, fitted, shown_names
from fromage_cli.terminal.words import ascii_words, number, visible

NARROWEST_NAME = (16, 24)
"""Names are shortened to so many cells before a column goes. On a narrow terminal, and from 72 columns on."""
UNLIMITED = 10_000
"""Columns of a terminal that has room for everything."""
_GAP = 2
_ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Column:
    """One column of a house table."""

    header: str
    name: bool = False
    """Holds names: to the left; what all share is said in the header, and they are shortened where room is short."""
    left: bool = False
    """Holds words, to the left; numbers stand to the right."""
    optional: int = 0
    """Where room is short the column of the highest number goes first; 0 stays."""


class HouseTable:
    """A table that fits its width by shortening names, then by leaving optional columns out and saying so.

    Where that is not enough it is wider than it should be: no number is cut.
    """

    def __init__(
        self, columns: Sequence[Column], rows: Sequence[Sequence[object]], style: PageStyle, all_names: Sequence[str]
    ) -> None:
        """`all_names`: those of the rows that are not shown too, so that every table of a run drops the same."""
        self.columns = list(columns)
        self.ascii_only = style.ascii_only
        self.headers = [self._plain(column.header) for column in columns]
        self.rows = [[self._cell(value) for value in row] for row in rows]
        self.pattern = ""
        self.all_names: Sequence[str] = ()
        for index, column in enumerate(self.columns):
            if column.name:
                self._shorten(index, [self._plain(name) for name in all_names])

    def _shorten(self, index: int, all_names: Sequence[str]) -> None:
        """Take from a column of names what all of them share."""
        cells = [row[index] for row in self.rows]
        every = list(dict.fromkeys([*all_names, *(cell.plain for cell in cells)]))
        shown = shown_names(every)
        self.all_names = shown.names
        short = dict(zip(every, shown.names, strict=True))
        for row, cell in zip(self.rows, cells, strict=True):
            row[index] = Text(short[cell.plain], style=cell.style)
        header = f"{self.headers[index]} ({shown.pattern})"
        if not shown.pattern or cell_len(header) > max(NARROWEST_NAME[0], *map(cell_len, shown.names)):
            self.pattern = shown.pattern
        else:
            self.headers[index] = header

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the width it is given."""
        kept = self._fitting(options.max_width)
        table = self._table(kept, options.max_width)
        needed = Measurement.get(console, options.update(width=UNLIMITED), table).maximum
        yield from console.render(table, options.update(width=max(needed, options.max_width)))
        hidden = [self.headers[index] for index in range(len(self.columns)) if index not in kept]
        if hidden:
            yield Text(f"not shown, window too narrow: {', '.join(hidden)}", style="dim")
        if self.pattern:
            yield Text(f"names: what the * of {self.pattern} stands for", style="dim")

    def _fitting(self, width: int) -> list[int]:
        """The columns that are shown, in their order: names may be cut, then the least wanted column goes."""
        kept = list(range(len(self.columns)))
        least = [
            max(map(cell_len, [*self._names(index, _narrowest(width)), self.headers[index]]))
            if column.name
            else self._width(index)
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

    def _names(self, index: int, width: int) -> list[str]:
        """A column's names in at most so many cells where that is possible."""
        names = [row[index].plain for row in self.rows]
        return fitted(names, width, ".." if self.ascii_only else DOTS, self.all_names)

    def _table(self, kept: Sequence[int], width: int) -> RichTable:
        table = RichTable(
            box=_ASCII_HEAD if self.ascii_only else box.SIMPLE_HEAD,
            header_style="bold",
            show_edge=False,
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
            )
            if column.name:
                shorter = self._names(index, room)
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


def house_table(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], style: PageStyle, all_names: Sequence[str] = ()
) -> RenderableType:
    """Rows of texts and numbers as a house table; a cell that is a `Text` keeps its style.

    `all_names`: the names of all rows, where the table shows the first few of them.
    """
    return HouseTable(columns, rows, style, all_names)


def hidden_rows(shown: int, total: int, what: str = "") -> list[Text]:
    """A line that says how many rows are not shown, and in a few words what they hold; none where all are."""
    words = f", {what}" if what else ""
    return [Text(f"{total - shown} more{words}: --all", style="dim")] if shown < total else []


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
    """Each finding beside its severity, layers of which the same is said in one line; remedies and codes under `-v`.

    Of several of one kind the first stands there without `--all`, with how many there are.
    """
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for (code, severity), group in groupby(findings, key=lambda finding: (finding.code, finding.severity)):
        alike: dict[str, list[Finding]] = {}
        for finding in group:
            alike.setdefault(finding.message, []).append(finding)
        shown = list(alike.items()) if style.show_all else list(alike.items())[:1]
        hidden = sum(map(len, alike.values())) - sum(len(found) for _, found in shown)
        more = f" ({hidden} more like it: --all)" if hidden else ""
        for message, found in shown:
            names = [finding.prefix for finding in found if finding.prefix]
            layers = (", ".join(names) if style.show_all else first_names(names)) + ": " * bool(names)
            grid.add_row(Text(severity, _COLOURS[severity]), prose(f"{layers}{message}{more}", style))
        if shown[-1][1][-1].hint and style.verbose:
            grid.add_row("", prose(shown[-1][1][-1].hint, style))
        if style.verbose:
            grid.add_row("", prose(f"More: fromage-diag explain {code}", style, "dim"))
    return grid


def prose(text: str, style: PageStyle, colour: str = "") -> Text:
    """Sentences, in which no name can act, spelled in ASCII before they are broken into lines where need be."""
    return Text(ascii_words(visible(text)) if style.ascii_only else visible(text), colour)
