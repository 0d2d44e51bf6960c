"""The command that the user wants run when a checkpoint says stop."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fromage_cli.watching import child

LONGEST = 600.0
"""Seconds that the command may take: nothing is diagnosed meanwhile."""


def sound(command: str, record: Mapping[str, Any], log: Path, say: Callable[[str], None]) -> None:
    """Run a shell command that finds in its environment what it is about; a failure is told."""
    told = {
        "FROMAGE_DIAG_CHECKPOINT": record["path"],
        "FROMAGE_DIAG_STEP": "" if record["step"] is None else str(record["step"]),
        "FROMAGE_DIAG_VERDICT": record["result"]["verdict"],
        "FROMAGE_DIAG_LOG": str(log),
    }
    try:
        ended = child.run(["/bin/sh", "-c", command], {**os.environ, **told}, LONGEST, heard=False)
    except OSError as error:
        say(f"note: --on-fail could not be run: {error.strerror}")
        return
    if ended.code is None:
        say(f"note: --on-fail was killed after {LONGEST:g} s")
    elif ended.code != 0:
        how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
        say(f"note: --on-fail ended with {how}")
