from functools import partial
from pathlib import Path

import pytest
from rich.cells import cell_len

from fromage_cli.reference.explanations import contents, explanations
from fromage_cli.reference.lookup import look_up
from fromage_cli.reference.render import render, render_contents
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import what_now
from tests.diagnostics.pages import compare, drawn

golden = partial(compare, Path(__file__).parent / "golden")
SCREEN = 24 - 4
"""Lines of a terminal without the prompt, the header, the empty line below it, and one line of advice."""


@pytest.mark.parametrize("word", ["breakdown-early", "lemma-2", "learning_rate", "suggest-lr.limit.eta", "exit-codes"])
def test_the_page(word: str) -> None:
    golden(f"{word}.txt", drawn(render, look_up(word)))


def test_the_topics() -> None:
    golden("topics.txt", drawn(render_contents, contents()))


def test_every_page_is_one_screen_of_80_columns() -> None:
    for name in explanations():
        one = look_up(name)
        lines = drawn(render, one).splitlines()
        advice = what_now(one.what_to_do or "", PageStyle()).plain
        assert len(lines) + cell_len(advice) // 80 <= SCREEN, name
        assert max(map(cell_len, lines)) <= 80, name


def test_all_shows_what_a_page_leaves_out() -> None:
    one = look_up("learning_rate")
    text = drawn(render, one, show_all=True)
    assert all(other.name in text for other in one.also) and "--all" not in text
    text = drawn(render_contents, contents(), show_all=True)
    assert "Fields of breakdown" in text and "envelope.tool.seconds" in text


def test_the_page_in_ascii() -> None:
    assert drawn(render, look_up("lemma-2"), ascii_only=True).isascii()
