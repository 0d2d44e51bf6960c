"""Which streams get colours."""

import io

import pytest

from fromage_cli.terminal import session
from fromage_cli.terminal.colours import console_on
from fromage_cli.terminal.options import OutputOptions


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("wish", "terminal", "no_color", "coloured"),
    [
        ("auto", True, False, True),
        ("auto", False, False, False),
        ("auto", True, True, False),
        ("always", True, False, True),
        ("always", False, False, True),
        ("always", False, True, True),
        ("never", True, False, False),
        ("never", False, False, False),
    ],
)
def test_the_flag_then_no_color_then_the_stream_decide(monkeypatch, wish, terminal, no_color, coloured):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1") if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    paper = io.StringIO()
    with session.scope():
        session.begin(session.Session(output=OutputOptions(color=wish)))
        console_on(Terminal() if terminal else io.StringIO(), paper, 80).print("x", style="red")
    assert ("\x1b[31m" in paper.getvalue()) is coloured
    assert wish != "never" or "\x1b" not in paper.getvalue()


def test_a_page_heeds_it(call):
    assert "\x1b[" in call("measure", "--format", "rich", "--color", "always").out
    assert "\x1b[" not in call("measure", "--format", "rich").out
    assert "\x1b[" not in call("measure", "--format", "tsv", "--color", "always").out
    assert call("measure", "--color", "sometimes").code == 2


def test_the_answer_may_be_named_as_standard_output(call):
    plain = call("measure", "--format", "csv")
    assert call("measure", "--format", "csv", "-o", "-") == plain
    assert call("measure", "-o", "-").out == call("measure").out
    assert '"status": "error"' in call("measure", "--json", "-o", "-", "--seed", "x").out
