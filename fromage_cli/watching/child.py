"""Another program beside the training: of low priority, with a time limit, killed with all that it started."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fromage_cli import stopping

PRIORITY = 10
"""As `nice` gives it: the training goes first, and beside one that takes every processor it still gets on."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int | None
    """Its exit code, below 0 the signal that ended it; None where it took too long and was killed."""
    out: str
    err: str


def run(words: Sequence[str], environment: Mapping[str, str], seconds: float, *, heard: bool = True) -> Ended:
    """Run a program to its end, or kill it after so many seconds; it ends with this process's signals too.

    `heard`: what it prints is taken; else it goes where this process prints.
    """
    process = None
    stream = subprocess.PIPE if heard else None
    try:
        with stopping.undisturbed():  # else a signal could come when it runs and nobody knows of it
            process = subprocess.Popen(
                words,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                encoding="utf-8",
                errors="replace",
                process_group=0,
            )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, PRIORITY)
        out, err = process.communicate(timeout=seconds)
        return Ended(process.returncode, out or "", err or "")
    except subprocess.TimeoutExpired:
        return Ended(None, "", "")
    finally:
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
