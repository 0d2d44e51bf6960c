"""`fromage-diag schema`."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from fromage_cli.errors import UsageError
from fromage_cli.terminal.answer import Answer, PageStyle
from fromage_cli.terminal.options import OutputOptions, diagnostic
from fromage_cli.terminal.words import visible

if TYPE_CHECKING:
    from rich.console import RenderableType


@diagnostic(tables=(), estimate=False)
def command(
    name: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="Of this command alone.")] = None,
    *,
    output: OutputOptions,
) -> Answer:
    """Print the JSON Schema of what --json prints. It is JSON itself, whatever the format."""
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

    return Answer(made, page=page, alone=text)
