"""The page of `explain`: one thing on at most one screen, or all topics, a line for each group."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fromage_cli.reference.explanations import FIELDS, Contents, Explanation, Meaning
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import prose

ROWS = 6
"""Of other things of the same name, without --all."""
LEFT = 14
"""Cells of the labels."""
ELSEWHERE = (
    "fromage-diag explain NAME. Fields of the JSON are names too, such as suggest-lr.limit.eta. All names: --all."
)


def render(one: Explanation, style: PageStyle) -> RenderableType:
    """The page of one thing."""
    rows = [(label, words) for label, words in _said(one) if words]
    parts: list[RenderableType] = [prose(one.meaning, style)]
    if rows:
        parts += [Text(""), _grid(rows, style)]
    if one.also:
        parts += [Text(""), *_also(one.also, style)]
    return Group(*parts)


def _said(one: Explanation) -> Iterator[tuple[str, str | None]]:
    yield "Limit", one.limit
    yield "Formula", one.formula
    yield "Assumes", one.assumes
    yield "Usual causes", one.causes
    yield "Example", one.example
    yield "Part of", one.part_of
    yield "Holds", one.holds
    yield "Source", one.source.replace("*", "") if one.source else None
    yield "See", ", ".join(one.see)


def _grid(rows: Sequence[tuple[str, str]], style: PageStyle, left: int = LEFT, *, cut: bool = False) -> Table:
    """Labels with their words beside them; `cut`: each in one line."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    left = max(left, *(cell_len(label) for label, _ in rows))
    grid.add_column(no_wrap=True, min_width=left)
    grid.add_column(no_wrap=cut, overflow="ellipsis" if cut else "fold", max_width=max(style.width - left - 2, 1))
    for label, words in rows:
        grid.add_row(prose(label, style, "bold"), prose(words, style))
    return grid


def _also(also: Sequence[Meaning], style: PageStyle) -> list[RenderableType]:
    """Other things of the name, those with one meaning together, each on a line that is cut where it is full."""
    whole = style.show_all or also[0].kind == "exit-code"
    named: dict[str, list[str]] = {}
    for one in also:
        named.setdefault(one.meaning.splitlines()[0], []).append(one.name)
    more = {meaning: f" and {len(names) - 1} more" if len(names) > 1 else "" for meaning, names in named.items()}
    rows = [(f"{names[0]}{more[meaning]}", meaning) for meaning, names in named.items()]
    if style.show_all:
        rows = [(one.name, one.meaning) for one in also]
    shown = rows if whole else rows[:ROWS]
    hidden = [Text(f"{len(rows) - len(shown)} more: --all", "dim")] if len(shown) < len(rows) else []
    return [_grid(shown, style, 0, cut=not whole), *hidden]


def render_contents(contents: Contents, style: PageStyle) -> RenderableType:
    """All topics, each group on a line that is cut where it is full; under --all every name, of fields too."""
    groups = [group for group in contents.groups if style.show_all or not group.title.startswith(FIELDS)]
    rows = [(group.title, ", ".join(group.names)) for group in groups]
    return Group(_grid(rows, style, cut=not style.show_all), Text(""), prose(ELSEWHERE, style))
