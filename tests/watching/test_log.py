import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fromage_cli.errors import InputError
from fromage_cli.watching.log import WatchLog, verdict_in

RUN = Path("/runs/a")


def record(
    content: str, step: int | None = None, verdict: str | None = "go", code: int = 0, path: Path = RUN / "step.pt"
) -> dict[str, object]:
    result = None if verdict is None else {"verdict": verdict}
    told = {"content": content, "state": f"state of {content}", "step": step, "exit_code": code, "result": result}
    return {"watched_at": "2026-01-01T00:00:00+00:00", "path": str(path), **told}


@contextmanager
def opened(path: Path, said: list[str] | None = None) -> Iterator[WatchLog]:
    log = WatchLog(path, RUN, [].append if said is None else said.append)
    try:
        yield log
    finally:
        log.close()


def lines(path: Path) -> list[str]:
    return [json.loads(line)["content"] for line in path.read_text().splitlines()]


def test_what_was_written_is_known_again(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        log.append(record("a", 5, "stop"))
        log.append(record("b", 3, None, 7))
        log.append(record("c", None, "go", 5))
    with opened(tmp_path / "log") as log:
        assert (log.contents, log.states) == ({"a", "b", "c"}, {"state of a", "state of b", "state of c"})
        assert (log.highest_step, log.first_error) == (5, 7)
        assert log.verdicts == {"stop": 1, "none": 1, "go": 1}
    assert lines(tmp_path / "log") == ["a", "b", "c"]


@pytest.mark.parametrize("other", ["/runs/b/step.pt", "/runs/ab/step.pt", "/runs/step.pt", "/runs", "step.pt"])
def test_lines_of_other_runs_stay_and_do_not_count(tmp_path: Path, other: str) -> None:
    with opened(tmp_path / "log") as log:
        log.append(record("a", 900, "stop", 11, Path(other)))
        log.append(record("b", 900, None, 7, Path(other)))
        log.append(record("c", 1, path=RUN))  # a run's directory that holds weights itself
        log.append(record("d", 2, path=RUN / "step-2" / "model.pt"))
    with opened(tmp_path / "log") as log:
        assert (log.contents, log.states) == ({"c", "d"}, {"state of c", "state of d"})
        assert (log.highest_step, log.first_error, log.verdicts) == (2, 0, {"go": 2})
    assert lines(tmp_path / "log") == ["a", "b", "c", "d"]


@pytest.mark.parametrize("rest", [1, 20, 10_000])
def test_a_torn_last_line_is_dropped_and_the_next_stands_whole(tmp_path: Path, rest: int) -> None:
    path, said = tmp_path / "log", []
    with opened(path) as log:
        log.append(record("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + (whole * 100)[:rest].replace(b"\n", b" "))
    with opened(path, said) as log:
        assert log.contents == {"a"} and "cut off" in said[0]
        log.append(record("b"))
    assert lines(path) == ["a", "b"]


def test_a_log_with_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    for text in ("", '{"watch', '{"watched_at": "2026'):
        (tmp_path / "log").write_text(text)
        with opened(tmp_path / "log") as log:
            assert log.contents == set()


def test_a_damaged_line_within_is_left_out_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    with opened(tmp_path / "log") as log:
        log.append(record("a"))
    with (tmp_path / "log").open("ab") as file:
        nested = b'{"path": ' + 200_000 * b"[" + 200_000 * b"]" + b"}"
        file.write(b"\0\0\0\n[]\n" + nested + b'\n{"path": 5}\n{}\n')
    with opened(tmp_path / "log", said) as log:
        assert log.contents == {"a"}
    assert [re.findall(r"line \d", text) for text in said] == [[f"line {number}"] for number in range(2, 7)]


@pytest.mark.parametrize("text", ["notes of mine", "notes\n", "[1]\n", '{"schema": 1}\n'])
def test_another_file_is_not_appended_to(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(InputError, match="no log of watch"):
        WatchLog(tmp_path / "log", RUN, print)
    assert (tmp_path / "log").read_text() == text


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for place in (tmp_path / "log", tmp_path / "nowhere" / "log"):
        with pytest.raises(InputError, match="Cannot write"):
            WatchLog(place, RUN, print)


def test_one_writes_at_a_time_and_another_hears_who(tmp_path: Path) -> None:
    code = "import sys,time; from pathlib import Path; from fromage_cli.watching.log import WatchLog\n"
    code += "log = WatchLog(Path(sys.argv[1]), Path(), print); print('held', flush=True); time.sleep(100)"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "log"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {other.pid} on "):
            WatchLog(tmp_path / "log", RUN, print)
        other.send_signal(signal.SIGKILL)
        other.wait()
        with opened(tmp_path / "log"):  # the system lets go of what a killed process held
            pass
    finally:
        other.kill()


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    """A limit on the size of files fails in the middle of a line, as a full disk does."""
    with opened(tmp_path / "log") as log:
        assert log.append(record("a")) is None
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = (tmp_path / "log").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
        try:
            failure = log.append(record("b"))
            assert failure is not None and failure.errno == errno.EFBIG
            assert (tmp_path / "log").stat().st_size == size and log.contents == {"a"}
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert log.append(record("b")) is None
    assert lines(tmp_path / "log") == ["a", "b"]


def test_a_disk_that_fails_when_it_should_keep_a_line_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(tmp_path / "log") as log:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            failure = log.append(record("a"))
            assert failure is not None and failure.errno == errno.ENOSPC
        assert (tmp_path / "log").read_text() == ""


def test_a_log_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        log.append(record("a"))
        (tmp_path / "log").rename(tmp_path / "old")
        log.append(record("b"))
    assert (lines(tmp_path / "old"), lines(tmp_path / "log")) == (["a"], ["b"])


def test_a_verdict_is_read_where_there_is_one() -> None:
    assert verdict_in(record("a", verdict="look")) == "look"
    assert verdict_in(record("a", verdict=None)) is None and verdict_in({}) is None
