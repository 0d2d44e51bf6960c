"""Draws the picture at the top of README.md: a page of the program on a light and on a dark terminal."""

import io
import re
from pathlib import Path

from readme_terminal import ROOT, on_terminal
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COMMAND = "fromage-diag breakdown mlp-16/step-000000.safetensors"
WIDTH = 80
NORMAL = [(36, 41, 47), (207, 34, 46), (26, 127, 55), (154, 103, 0), (9, 105, 218), (130, 80, 223), (27, 124, 131)]
BRIGHT = [
    (139, 148, 158),
    (255, 123, 114),
    (63, 185, 80),
    (210, 153, 34),
    (88, 166, 255),
    (188, 140, 255),
    (57, 197, 207),
]
THEMES = {
    "light": TerminalTheme((246, 248, 250), (36, 41, 47), [*NORMAL, (110, 119, 129)]),
    "dark": TerminalTheme((13, 17, 23), (230, 237, 243), [*BRIGHT, (177, 186, 196)]),
}
"""Foregrounds of enough contrast on either ground: black, red, green, yellow, blue, magenta, cyan, white."""
FONT_FILES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""They would be fetched from another site; the reader's own fixed-width font does."""


def draw_pictures(directory: Path) -> None:
    """Write docs/breakdown-light.svg and docs/breakdown-dark.svg."""
    page = on_terminal(f"cd sample_checkpoints; {COMMAND}", directory, {"TERM": "xterm", "COLORTERM": ""})
    for name, theme in THEMES.items():
        console = Console(record=True, width=WIDTH, file=io.StringIO(), legacy_windows=False)
        console.print(Text(f"$ {COMMAND}"), Text.from_ansi(page.replace("\r", "").rstrip()), sep="\n")
        drawn = console.export_svg(title="fromage-diag", theme=theme, unique_id=f"page-{name}")
        (ROOT / "docs" / f"breakdown-{name}.svg").write_text(FONT_FILES.sub("", drawn), encoding="utf-8")
