"""`fromage-diag schema`."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.errors import UsageError
from fromage_cli.terminal.answer import Answer, PageStyle, Table, summary
from fromage_cli.terminal.options import OutputOptions, diagnostic
from fromage_cli.terminal.session import typed
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    from rich.console import RenderableType


@diagnostic(tables=("fields", "summary"), estimate=False)
def command(
    name: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="Of this command alone.")] = None,
    *,
    output: OutputOptions,
) -> Answer:
    """Print the JSON Schema of what --json prints. It is JSON itself, unless --table names a table."""
    from fromage_cli.reference.schema import ROOTS, schema_of, schema_of_all
    from fromage_cli.terminal.envelope import dumps

    if name is not None and name not in ROOTS:
        near = get_close_matches(name, list(ROOTS), n=3, cutoff=0.4) or list(ROOTS)
        raise UsageError(f"There is no command {visible(name)!r}.", f"Nearest: {', '.join(near)}.")
    made = schema_of_all() if name is None else schema_of(name)
    text = dumps(made).removesuffix("\n")

    def page(style: PageStyle) -> "RenderableType":
        from rich.text import Text

        return Text(text)

    def fields() -> Table:
        from fromage_cli.reference.fields import json_fields

        rows = [(one.path, one.meaning) for one in json_fields() if name in (None, one.path.partition(".")[0])]
        return Table(("field", "meaning"), tuple(rows))

    def headline() -> Table:
        commands = len(ROOTS) if name is None else 1
        return summary([("commands", commands, "commands"), ("fields", len(fields().rows), "fields")])

    tables = {"fields": fields, "summary": headline}
    return Answer(made, page=page, tables=tables, alone=None if typed("table") else text)
