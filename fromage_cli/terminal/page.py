"""What every page is made of: a header of one line, the answer in numbers, a ruler, and what to do now."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.names import DOTS, fitted
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, prose
from fromage_cli.terminal.words import ascii_words, number, visible

Row = TypeVar("Row")
ROWS = 5
"""Rows of a table on a default page."""
LEAST_ROOM = 10
"""Cells beside a number from which on its words stand there; below it they stand on lines of their own."""
INDENT = 4
"""Cells before such words."""
BETWEEN = " · "
RULER = 76
"""Cells of a ruler at most."""


def shown_rows(rows: Sequence[Row], style: PageStyle) -> Sequence[Row]:
    """The first few rows; all of them under `--all`."""
    return rows if style.show_all else rows[:ROWS]


def layer_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    style: PageStyle,
    *,
    names: Sequence[str],
    hidden: str,
    legend: str,
) -> RenderableType:
    """The first of many layers, what the others hold, and under `-v` what the columns mean.

    `names`: those of all layers; `hidden`: in a few words what is to be said of those that are not shown.
    """
    meaning = [prose(legend, style, "dim")] if style.verbose else []
    return Group(house_table(columns, rows, style, names), *hidden_rows(len(rows), len(names), hidden), *meaning)


def header(parts: Sequence[str], style: PageStyle) -> Text:
    """What was measured, in one line: as many of the parts as have room, the first ones first.

    Where room is short, what follows a comma in a part goes first, beginning with the last part.
    """
    said, between = [text for part in parts if (text := _plain(part, style))], _plain(BETWEEN, style)
    room = max(style.width, cell_len(said[0].partition(", ")[0])) if said and not style.verbose else math.inf
    for place in reversed(range(len(said))):
        if cell_len(between.join(said)) > room:
            said[place] = said[place].partition(", ")[0]
    while cell_len(between.join(said)) > room:
        said.pop()
    return Text(between.join(said), "bold")


@dataclass(frozen=True)
class Fact:
    """One number of the answer, with a plain label before it and what it means after it."""

    label: str
    """Empty where the fact before it has the same one."""
    value: str
    words: str = ""


def facts(
    found: Sequence[Fact], style: PageStyle, names: Sequence[str] = (), beside: Sequence[Fact] = ()
) -> RenderableType:
    """The answer in numbers: one to a line, the number in bold; the words below it where they have no room beside it.

    `names`: those of all layers; one that has no room in a line of the words is shortened as in tables.
    `beside`: those of other blocks of the page, whose columns are as wide.
    """
    labels, values = ([_plain(getattr(fact, what), style) for fact in (*found, *beside)] for what in ("label", "value"))
    widths = [max(map(cell_len, texts), default=0) for texts in (labels, values)]
    room = style.width - 2 - sum(width + 2 for width in widths) - 1  # a comma may follow
    if room < LEAST_ROOM:
        lines: list[RenderableType] = []
        for label, value, fact in zip(labels, values, found, strict=False):
            words = _with_short_names(fact.words, names, style.width - INDENT - 1, style)
            lines += [Text.assemble(f"  {label}  ", (value, "bold")), Padding(prose(words, style), (0, 0, 0, INDENT))]
        return Group(*lines)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for width in (2 + widths[0], widths[1]):
        grid.add_column(no_wrap=True, min_width=width)
    grid.add_column(overflow="fold")
    for label, value, fact in zip(labels, values, found, strict=False):
        words = _with_short_names(fact.words, names, room, style)
        grid.add_row(Text(f"  {label}"), Text(value, "bold"), prose(words, style))
    return grid


def _with_short_names(words: str, names: Sequence[str], room: int, style: PageStyle) -> str:
    """Words in which no name of a layer is longer than a line, as far as it can be shortened."""
    for name in sorted((each for each in names if cell_len(each) > room and each in words), key=len, reverse=True):
        words = words.replace(name, fitted([name], room, ".." if style.ascii_only else DOTS, names)[0])
    return words


@dataclass(frozen=True)
class Mark:
    """One place on a ruler."""

    value: float
    sign: str
    words: str
    colour: str = ""


@dataclass(frozen=True)
class Band:
    """A stretch of a ruler, below the places that are marked in it."""

    low: float
    high: float
    words: str
    colour: str = "green"


def ruler(title: str, marks: Sequence[Mark], style: PageStyle, band: Band | None = None) -> list[Text]:
    """Places on a logarithmic axis, a tick at every power of ten, and what the signs mean; nothing without a place.

    Where two places fall together the first one's sign is drawn, and its words are those of both. So it is with a band
    that is hidden by marks.
    """
    placed = [mark for mark in marks if _has_place(mark.value)]
    band = band if band is not None and _has_place(band.low) and _has_place(band.high) else None
    values = [mark.value for mark in placed] + ([] if band is None else [band.low, band.high])
    if not values:
        return []
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)
    indent = 3 + cell_len(_plain(title, style))
    cells = min(style.width, RULER) - indent - 3
    step = max(1, math.ceil(8 * (high - low) / cells))  # powers of ten without a tick between two that have one

    def place(value: float) -> int:
        return round((math.log10(value) - low) / (high - low) * (cells - 1))

    labels, axis = [" "] * (cells + 12), Text("─" * cells)
    for power in range(low, high + 1, step):
        text, tick = number(10.0**power), place(10.0**power)
        labels[tick : tick + len(text)] = text
        axis = _with(axis, tick, "┼" if low < power < high else "├" if power == low else "┤", "")
    stretch = range(0) if band is None else range(place(band.low), place(band.high) + 1)
    for where in stretch:
        axis = _with(axis, where, axis.plain[where].translate(IN_BAND), "" if band is None else band.colour)
    legend: dict[int, tuple[str, list[str]]] = {}
    for mark in placed:
        where = place(mark.value)
        if where not in legend:
            axis = _with(axis, where, mark.sign, mark.colour or "bold")
        legend.setdefault(where, (mark.sign, []))[1].append(mark.words)
    if band is not None:
        free = next((where for where in stretch if where not in legend), stretch[0])
        legend.setdefault(free, ("═", []))[1].append(band.words)
    margin = " " * indent
    said = [""]
    for _, (sign, words) in sorted(legend.items()):
        entry = f"{sign} {', '.join(words)}"
        if said[-1] and indent + cell_len(f"{said[-1]}   {entry}") > style.width:
            said.append("")
        said[-1] += f"   {entry}" if said[-1] else entry
    if style.ascii_only:
        axis.plain, said = axis.plain.translate(SIGNS), [line.translate(SIGNS) for line in said]
    scale = Text(f"  {_plain(title, style)} {''.join(labels).rstrip()}")
    return [scale, Text(margin) + axis, *(prose(margin + line, style) for line in said)]


def _has_place(value: float) -> bool:
    return math.isfinite(value) and value > 0.0


def _with(line: Text, place: int, sign: str, colour: str) -> Text:
    return Text.assemble(line[:place], (sign, colour), line[place + 1 :])


IN_BAND = str.maketrans("─┼├┤", "═╪╞╡")
"""The axis where a band lies on it."""
SIGNS = str.maketrans("─┼├┤●◆◇▲▼○═┊╪╞╡", "-+++o#*^vc=:+++")
"""A ruler's signs where only ASCII can be written; one cell each."""


def what_now(advice: str, style: PageStyle) -> Text:
    """The last line of a page: what the reader can do, as a sentence; a line to type keeps its small letter."""
    sentence = advice if advice.startswith(("fromage-diag", "--")) else advice[:1].upper() + advice[1:]
    return Text.assemble(("What now: ", "bold"), _plain(sentence, style))


def _plain(text: str, style: PageStyle) -> str:
    return ascii_words(visible(text)) if style.ascii_only else visible(text)
