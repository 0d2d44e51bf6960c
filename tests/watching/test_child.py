import os
import sys
import time
from pathlib import Path

import pytest

from fromage_cli import stopping
from fromage_cli.watching.child import PRIORITY, Ended, run


def python(code: str, seconds: float = 60.0, **more: str) -> Ended:
    return run([sys.executable, "-c", code], {**os.environ, **more}, seconds)


def test_what_it_prints_and_how_it_ends_is_taken() -> None:
    ended = python(
        "import os, sys; print(os.environ['X'], sys.stdin.read()); print('e', file=sys.stderr); exit(7)", X="x"
    )
    assert (ended.code, ended.out, ended.err) == (7, "x \n", "e\n")


def test_a_signal_is_told_as_a_negative_number() -> None:
    assert python("import os; os.kill(os.getpid(), 11)").code == -11


def test_the_training_goes_first() -> None:
    ended = python("import os, time; time.sleep(.3); print(os.getpriority(os.PRIO_PROCESS, 0))")
    assert int(ended.out) == PRIORITY


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    begun, command = time.monotonic(), f"sleep 600 & echo $! > {tmp_path / 'pid'}; sleep 600"
    ended = run(["/bin/sh", "-c", command], os.environ, 2.0)
    assert ended.code is None and time.monotonic() - begun < 60.0
    other = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(other):
            break
        time.sleep(0.05)
    assert not alive(other)


def test_a_signal_to_this_process_ends_it_too(tmp_path: Path) -> None:
    """Sent by the child itself, so at a moment when it runs for sure."""
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
    code += "os.kill(os.getppid(), 15); time.sleep(600)"
    with stopping.stoppable(print, lambda error: None), pytest.raises(stopping.Terminated):
        run([sys.executable, "-c", code, str(tmp_path / "pid")], os.environ, 60.0)
    assert not alive(int((tmp_path / "pid").read_text()))
