import io

import pytest

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
            advance()
            advance(0.5)
    assert ("measuring [bold]\\x1b" in stream.getvalue()) is shown
    assert shown or stream.getvalue() == ""


def test_a_bar_stands_from_the_start_says_what_is_done_and_ends_with_the_work(monkeypatch):
    """Stages take one bar over; it stands where their work is, and is not full while there is more than foretold."""
    monkeypatch.setattr("sys.stderr", stream := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    done, doing = 0.0, "the next update"
    with session.scope():
        session.begin(session.Session("x", OutputOptions()))
        with progress("x: reading"):
            assert "x: reading" in stream.getvalue()
            with progress("x", 10.0, Work(lambda: done, lambda: doing)) as advance:
                done = 5.0
                advance()
                (task,) = _BAR.get().progress.tasks
                assert (task.completed, task.total, task.description) == (5.0, 10.0, "x: the next update")
                done, doing = 20.0, "short runs"
                advance(3)
                assert task.completed == 20.0 and not task.finished and task.description == "x: short runs"
            with progress("y", 2) as advance:
                advance()
                assert (task.completed, task.total, task.description) == (1.0, 2.0, "y")
    assert _BAR.get() is None


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


@pytest.mark.parametrize("columns", [1, 12, 80])
def test_breaking_loses_no_word(columns):
    for line in ("", "x" * 200, "   indented " + "word " * 40, "note: " + "/".join("path" for _ in range(60))):
        assert streams.broken(line, columns).split() == line.split()
