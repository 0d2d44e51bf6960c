"""A terminal of 80 columns, on which the program of this tree runs, whatever is installed."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHELL = """
fromage-diag() { "$PYTHON" -m fromage_cli "$@"; }
python() { "$PYTHON" "$@"; }
"""


def on_terminal(command: str, directory: Path, settings: Mapping[str, str]) -> str:
    """What a command of the shell writes to standard output, with the terminal's own line ends.

    Standard error is dropped where the command does not join it to standard output (`2>&1`).
    """
    home = directory / "home"
    home.mkdir(exist_ok=True)
    own = {
        "COLUMNS": "80",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(home),
    }
    reading, writing = pty.openpty()
    with subprocess.Popen(
        ["bash", "-c", SHELL + command],
        cwd=directory,
        env=os.environ | own | settings,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.DEVNULL,
    ):
        os.close(writing)
        received = bytearray()
        while True:
            try:
                piece = os.read(reading, 1 << 16)
            except OSError:  # the other end was closed
                break
            if not piece:
                break
            received += piece
    os.close(reading)
    return received.decode("utf-8", "replace")
