"""What a file holds beside weights and optimizer, in a line and in a table."""

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fromage_cli.checkpoints.names.steps import STEP_NAMES
from fromage_cli.checkpoints.nested.remainder import MORE
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import hidden_rows, prose
from fromage_cli.terminal.words import number

NAMED = 6
"""Entries that the line names."""
SHORT = 24
"""Characters of a text that the line repeats."""
ROWS = 100
"""Rows of the table, but under `--all`."""


def held_in_short(held: Mapping[str, object], step: int | None) -> str:
    """The first entries in a line; nothing where there is only the step that the header tells, or a format's name."""
    if all(name == "format" or (name in STEP_NAMES and str(value) == str(step)) for name, value in held.items()):
        return ""
    words = [_in_short(name, value) for name, value in held.items()]
    more = [f"{len(words) - NAMED} more (-v)"] if len(words) > NAMED else []
    return ", ".join([*words[:NAMED], *more])


def _in_short(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        count = f"{len(value) - 1} and more" if MORE in value else str(len(value))
        return f"{name} ({count} {'entry' if count == '1' else 'entries'})"
    if isinstance(value, list) or (isinstance(value, str) and len(value) > SHORT):
        return name
    return f"{name} {_in_words(value)}"


def flattened(held: Mapping[str, object], around: str = "") -> Iterator[tuple[str, object]]:
    """Every value by its dotted name, one after another."""
    for name, value in held.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{around}{name}.")
        else:
            yield f"{around}{name}", value if isinstance(value, int | float | str) else _in_words(value)


def held_table(held: Mapping[str, object], style: PageStyle) -> list[RenderableType]:
    """All values, one to a row."""
    rows = [(name, _in_words(value)) for name, value in flattened(held)]
    shown = rows if style.show_all else rows[:ROWS]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(overflow="fold", max_width=style.width // 2)
    grid.add_column(overflow="fold")
    for name, words in shown:
        grid.add_row(prose(f"  {name}", style), prose(words, style))
    return [Text("Also in it:"), grid, *hidden_rows(len(shown), len(rows))]


def _in_words(value: object) -> str:
    """A value as a person reads it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_in_words, value))}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(held)}" for name, held in value.items()) or "empty"
    return number(value) if isinstance(value, float) else str(value)
