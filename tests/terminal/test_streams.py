import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.errors import InputError
from fromage_cli.terminal import session, streams
from fromage_cli.terminal.options import OutputOptions
from fromage_cli.terminal.progress import _BAR, Work, progress


@pytest.mark.parametrize(
    ("environment", "plain"),
    [
        ({}, False),
        ({"LANG": "C"}, True),
        ({"LANG": "POSIX", "LC_CTYPE": "C.UTF-8"}, True),
        ({"LC_ALL": "C"}, True),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}, False),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "C"}, False),
        ({"LC_CTYPE": "de_DE.UTF-8", "LANG": "C"}, False),
        ({"LANG": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8"}, False),
    ],
)
def test_plain_locale(environment, plain):
    assert streams.plain_locale(environment) is plain


def test_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "123")
    assert streams.width(None) == 123
    for odd in ("0", "-3", "wide", ""):
        monkeypatch.setenv("COLUMNS", odd)
        assert streams.width(io.StringIO()) == 80


@pytest.mark.parametrize(
    ("encoding", "ascii_only"), [("utf-8", False), ("UTF8", False), ("ascii", True), ("cp1252", True), ("odd", True)]
)
def test_ascii_only(encoding, ascii_only):
    stream = io.StringIO()
    assert not streams.ascii_only(stream)
    stream = type("Stream", (), {"encoding": encoding})()
    assert streams.ascii_only(stream) is ascii_only


def test_writing_to_a_narrow_stream_spells_what_it_lacks():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    streams.write(stream, "η ≤ 3")
    assert raw.getvalue() == b"eta <= 3"


def test_a_closed_stream_is_an_error_of_ours():
    with pytest.raises(InputError, match="closed"):
        streams.write(None, "x")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "options", "shown"),
    [
        (True, OutputOptions(), True),
        (True, OutputOptions(quiet=True), False),
        (True, OutputOptions(no_progress=True), False),
        (False, OutputOptions(), False),
    ],
)
def test_progress_is_for_a_person(monkeypatch, terminal, options, shown):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with session.scope():
        session.begin(session.Session("x", options))
        with progress("measuring [bold]\x1b", total=2) as advance:
            advance(1)
            advance(0.5)
    assert ("x: measuring [bold]\\x1b" in stream.getvalue()) is shown
    assert shown or stream.getvalue() == ""


@pytest.fixture
def watched(monkeypatch):
    """Somebody sits at the terminal; gives what the bar says and how full it is."""
    monkeypatch.setattr("fromage_cli.terminal.streams.is_terminal", lambda stream: True)

    def seen():
        (task,) = _BAR.get().progress.tasks
        return task.description, pytest.approx(task.percentage)

    with session.scope():
        session.begin(session.Session("x", OutputOptions()))
        yield seen
    assert _BAR.get() is None


def test_a_bar_stands_from_the_start_and_says_what_is_done(watched):
    """Stages take one bar over; it stands where their work is, and before its end when all that is foreseen is done."""
    done, doing = 0.0, "the next update"
    with progress("reading"):
        assert watched() == ("x: reading", 0.0)
        with progress("measuring", 10.0, Work(lambda: done, lambda: doing)) as advance:
            done = 5.0
            advance()
            assert watched() == ("x: the next update", 49.0)
            done, doing = 20.0, "short runs"
            advance()
            assert watched() == ("x: short runs", 98.0)
        with progress("writing", 2) as advance:
            advance(1)
            assert watched() == ("x: writing", 49.0)
            advance(1, "the rest")
            assert watched() == ("x: the rest", 98.0)


def test_steps_that_are_told_come_on_top_of_the_work(watched):
    done, doing = 0.0, ""
    with progress("reading", 10.0, Work(lambda: done, lambda: doing)) as advance:
        assert watched() == ("x: reading", 0.0)
        done, doing = 4.0, "testing"
        advance(1.0)
        assert watched() == ("x: testing", 49.0)
        advance(1.0, "reading a file")
        assert watched() == ("x: reading a file", 58.8)
        doing = "testing again"
        advance()
        assert watched() == ("x: testing again", 58.8)


def test_a_bar_never_runs_backwards(watched):
    done = 5.0
    with progress("measuring", 10.0, Work(lambda: done)) as advance:
        done = 4.0
        advance()
        assert watched() == ("x: measuring", 49.0)


def test_a_terminal_gets_lines_broken_between_words(monkeypatch):
    line = "note: Took 'step-000860.pt', the highest complete step of 3 in 'a/very-long/directory/name'."
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    streams.say(line + "\nshort")
    assert terminal.getvalue().splitlines() == [
        "note: Took 'step-000860.pt', the highest",
        "      complete step of 3 in",
        "      'a/very-long/directory/name'.",
        "short",
    ]
    monkeypatch.setattr("sys.stderr", pipe := io.StringIO())
    streams.say(line)
    assert pipe.getvalue() == line + "\n"


OLDER = re.compile(r"##\[[^\]]*\]")
"""A command to GitHub's runner in the older syntax, wherever it stands in a line."""
NEWER = re.compile(r"(?m)^\s*::.*::")
"""One in today's syntax, which begins a line behind blanks."""


@given(st.text("#[]: \tx\n"))
def test_no_text_is_a_command_to_githubs_runner(text):
    safe = streams.without_commands(text)
    assert not OLDER.search(safe) and not NEWER.search(safe)
    assert streams.without_commands(safe) == safe
    if "##[" not in text and "::" not in text:
        assert safe == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("note: 'a##[error]b' ###[group]c", "note: 'a# #[error]b' ## #[group]c"),
        ("error: no.\n  ::add-mask::a", "error: no.\n  : :add-mask::a"),
        ("a::b, # [c], ##d, #[e]", "a::b, # [c], ##d, #[e]"),
    ],
)
def test_notes_on_github_are_no_commands(clean, monkeypatch, capsys, text, safe):
    streams.say(text)
    assert capsys.readouterr().err == text + "\n"
    session.begin(session.Session("x", OutputOptions(format="github")))
    streams.say(text)
    session.begin(session.Session("x", OutputOptions()))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    streams.say(text)
    assert capsys.readouterr().err == 2 * (safe + "\n")


@pytest.mark.parametrize("columns", [1, 12, 80])
def test_breaking_loses_no_word(columns):
    for line in ("", "x" * 200, "   indented " + "word " * 40, "note: " + "/".join("path" for _ in range(60))):
        assert streams.broken(line, columns).split() == line.split()
