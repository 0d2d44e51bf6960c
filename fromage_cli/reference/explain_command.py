"""`fromage-diag explain`."""

from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.terminal.answer import Answer, PageStyle, Table, records, summary
from fromage_cli.terminal.options import OutputOptions, diagnostic

if TYPE_CHECKING:
    from rich.console import RenderableType


@diagnostic(tables=("explanation", "also", "summary"), estimate=False)
def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A finding's code, a field as COMMAND.FIELD, or a term.")
    ] = None,
    *,
    output: OutputOptions,
) -> Answer:
    """What does a finding, a field of the JSON or a term mean, and what to do?"""
    return _contents() if name is None else _one(name)


def _one(name: str) -> Answer:
    from fromage_cli.reference.lookup import look_up

    one = look_up(name)

    def page(style: PageStyle) -> "RenderableType":
        from fromage_cli.reference.render import render

        return render(one, style)

    return Answer(
        one,
        page=page,
        tables={
            "explanation": lambda: records([one]),
            "also": lambda: records(one.also),
            "summary": lambda: summary([("also", len(one.also), "explanations"), ("see", len(one.see), "names")]),
        },
        header=(one.name, one.kind),
        advice=one.what_to_do or "",
    )


def _contents() -> Answer:
    from fromage_cli.reference.explanations import contents

    found = contents()

    def page(style: PageStyle) -> "RenderableType":
        from fromage_cli.reference.render import render_contents

        return render_contents(found, style)

    rows = tuple((group.title, name) for group in found.groups for name in group.names)
    table = Table(("group", "name"), rows)
    counts = [("groups", len(found.groups), "groups"), ("names", len(rows), "names")]
    tables = {"explanation": lambda: table, "also": lambda: Table((), ()), "summary": lambda: summary(counts)}
    return Answer(found, page=page, tables=tables)
