"""The page of `inspect --safety`: a sentence, and the names that pickles ask for, those that would run code first."""

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.inspect.result import SafetyResult
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import visible

ROWS = 24
"""Names shown without `--all`."""
_ORDER = ("dangerous", "inert", "allowed")


def render_safety(result: SafetyResult, style: PageStyle, path: str) -> RenderableType:
    """The whole page, without findings."""
    # one row for each name and use, whatever the number of pickles
    places: dict[tuple[str, str, str], list[str]] = {}
    for entry in sorted(result.safety, key=lambda entry: _ORDER.index(entry.verdict)):
        key = (f"{entry.module}.{entry.name}".lstrip("."), entry.verdict, entry.use)
        places.setdefault(key, []).append(entry.place or "the file")
    rows = []
    for (name, verdict, use), where in places.items():
        acts = "run it" if use == "code" else use.replace("build", "set attributes").replace("+", ", ")
        rows.append((name, verdict, acts, f"{where[0]} and {len(where) - 1} more" if len(where) > 1 else where[0]))
    shown = rows if style.show_all else rows[:ROWS]
    said = Text(f"{visible(path)}: {sentence(result)}")
    faults = result.unread if style.show_all else result.unread[:ROWS]
    unread = [Text(f"read in part: {visible(fault)}") for fault in faults]
    unread += hidden_rows(len(faults), len(result.unread))
    if not shown:
        return Group(said, *unread)
    columns = [Column("name", name=True), Column("verdict", left=True), Column("an ordinary loader would", left=True)]
    columns += [Column("in", name=True, optional=1)]
    table = house_table(columns, shown, style)
    return Group(said, table, *hidden_rows(len(shown), len(rows)), *unread)


def sentence(result: SafetyResult) -> str:
    """How much there is, and how much of it would run."""
    if not result.safety and not result.pickles:
        return "no pickles and no code were found in it."
    counts = {verdict: sum(entry.verdict == verdict for entry in result.safety) for verdict in _ORDER}
    found = f"{counted(result.pickles, 'pickle')}, {counted(len(result.safety), 'name')}"
    return (
        f"{found}: {counts['dangerous']} would run code or reach files, "
        f"{counts['inert']} of unknown classes or loose code, {counts['allowed']} that make up tensors and settings. "
        "Nothing was imported or called."
    )
