"""An answer's page as HTML, for notebooks."""

import io

from fromage_cli.terminal.answer import Answer, PageStyle
from fromage_cli.terminal.show import page_parts

COLUMNS = 100
"""A notebook's cell holds about as many."""
FRAME = '<pre style="line-height: normal; font-family: monospace; overflow-x: auto">{code}</pre>'
"""It leaves the background and the colour of plain text to the notebook, which may be light or dark."""


def html_page(answer: Answer) -> str:
    """The page of the command with its colours, as one element with its styles inline."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        record=True,
        width=COLUMNS,
        force_terminal=True,
        force_jupyter=False,  # else rich shows in the notebook what it records
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.print(*page_parts(answer, PageStyle(width=COLUMNS)), sep="\n", crop=False)
    return console.export_html(code_format=FRAME, inline_styles=True)
