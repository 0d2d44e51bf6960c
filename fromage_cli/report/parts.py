"""What a page is made of: sections with sentences, pictures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fromage_cli.counting import counted
from fromage_cli.terminal.words import number, visible

MOST_ROWS = 1000
"""Rows of a table on a page."""

Cell = str | float | None
LAYER = ("layer", "Its name in the network.")
"""The first column of tables of layers."""


@dataclass(frozen=True)
class Figure:
    """A picture and the sentences below it."""

    picture: Markup
    caption: str


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str
    meaning: str
    """In one sentence."""
    numeric: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table that can be sorted and filtered."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def shown(self) -> list[list[tuple[str, bool]]]:
        """The text of each cell, and whether it is a number."""
        return [
            [(visible(cell), False) if isinstance(cell, str) else (number(cell), True) for cell in row]
            for row in self.rows[:MOST_ROWS]
        ]

    @property
    def size(self) -> str:
        """How many rows it has."""
        return counted(len(self.rows), "row")

    @property
    def hidden(self) -> str:
        """How many rows are left out, in a sentence; empty where all are shown."""
        rest = len(self.rows) - MOST_ROWS
        return f"{counted(rest, 'more row')} are in the saved numbers." if rest > 0 else ""

    @property
    def empty(self) -> bool:
        """Whether no cell holds more than a name."""
        return not any(cell is not None for row in self.rows for cell in row[1:])


@dataclass(frozen=True)
class Section:
    """One part of the page, with the sentences that answer its question first."""

    title: str
    sentences: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    sheets: tuple[Sheet, ...] = ()

    @property
    def anchor(self) -> str:
        """What a link to it names."""
        return self.title.lower().replace(" ", "-")


def sheet(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Cell]]) -> tuple[Sheet, ...]:
    """The table without the columns of which every cell is empty; none where nothing is left but names."""
    filled = [place for place in range(len(columns)) if place == 0 or any(row[place] is not None for row in rows)]
    kept = tuple(Column(*columns[place], any(isinstance(row[place], float) for row in rows)) for place in filled)
    found = Sheet(title, kept, tuple(tuple(row[place] for place in filled) for row in rows))
    return () if found.empty else (found,)


def figure(picture: Markup | None, caption: str) -> tuple[Figure, ...]:
    """The picture with its caption; none where there is no picture."""
    return () if picture is None else (Figure(picture, caption),)
