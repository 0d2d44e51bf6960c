import re
from html import unescape

from rich.text import Text

from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, PageStyle
from fromage_cli.terminal.notebook_page import COLUMNS, html_page
from fromage_cli.terminal.show import page


def answer(text: str) -> Answer:
    def drawn(style: PageStyle) -> Text:
        return Text(text, style="bold red")

    return Answer({}, page=drawn, header=("a network",), findings=(Finding("code", "info", "well"),), advice="go on")


def test_the_html_says_what_the_page_says() -> None:
    shown = answer("A ruler ├──● and <names> & \x1b[31m codes")
    drawn = html_page(shown)
    text = unescape(re.sub("<[^>]+>", "", drawn))
    assert [line.rstrip() for line in text.splitlines()] == page(shown, None).splitlines()
    assert "<names>" not in drawn and "\x1b" not in drawn


def test_the_html_has_its_own_colours_and_leaves_the_rest_to_the_notebook() -> None:
    drawn = html_page(answer("red"))
    assert re.search(r'<span style="color: #[0-9a-f]{6}[^"]*font-weight: bold">red</span>', drawn)
    assert "class=" not in drawn and "background" not in drawn and drawn.startswith("<pre ")


def test_a_line_is_as_wide_as_a_cell() -> None:
    text = unescape(re.sub("<[^>]+>", "", html_page(answer("word " * 100))))
    assert COLUMNS - 5 <= max(len(line.rstrip()) for line in text.splitlines()) <= COLUMNS
