"""Pages as people see them, held against those that were looked at and kept."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from fromage_cli.terminal.answer import PageStyle


def drawn(
    render: Callable[..., Any],
    result: Any,
    width: int = 80,
    show_all: bool = False,
    ascii_only: bool = False,
    verbose: bool = False,
    **beside: Any,
) -> str:
    """The page of a result without colours; `beside`: what else `render` takes."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(render(result, PageStyle(show_all, ascii_only, width, verbose), **beside))
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def compare(folder: Path, name: str, text: str) -> None:
    """Hold a page against the one in the folder; FROMAGE_UPDATE_GOLDEN=1 keeps a new one."""
    path = folder / name
    if os.environ.get("FROMAGE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
