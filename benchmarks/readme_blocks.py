"""Runs the commands that README.md shows on a terminal of 80 columns, and compares what they print with what it shows.

    python benchmarks/readme_blocks.py            # the differences; exit 1 where there are any
    python benchmarks/readme_blocks.py --write    # puts what was printed into README.md

They run in a temporary directory with a copy of the samples. A line that holds nothing but `…` stands for any number
of lines. What a command that prints nothing shows is left as it is: its file is the reader's own.
"""

import argparse
import difflib
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?<=```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
SHELL = r"""
fromage-diag() { "$PYTHON" -m fromage_cli "$@"; }
"""
"""The program of this tree, whatever is installed."""
LEFT_OUT = "…"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Compare or rewrite every block; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put what was printed into README.md")
    arguments = parser.parse_args()
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(ROOT / "sample_checkpoints", Path(directory, "sample_checkpoints"))
        printed = BLOCK.sub(lambda block: run_block(block[0], directory), text)
    if arguments.write:
        page.write_text(printed, encoding="utf-8")
        return 0
    difference = list(
        difflib.unified_diff(text.splitlines(), printed.splitlines(), "README.md", "printed", lineterm="")
    )
    print("\n".join(difference) or "README.md shows what the commands print.")
    return 1 if difference else 0


def run_block(block: str, directory: str) -> str:
    """The block with every command's own output in place of what stands there."""
    found: list[str] = []
    for part in re.split(r"^(?=\$ )", block, flags=re.MULTILINE):
        lines = part.splitlines()
        if not lines:
            continue
        end = next(index for index, line in enumerate(lines) if not line.endswith("\\"))
        while lines[end].rstrip().endswith("|"):  # a pipe goes on in the next line
            end += 1
        command = "\n".join(lines[: end + 1]).removeprefix("$ ")
        found += [*lines[: end + 1], *elided(lines[end + 1 :], terminal_output(command, directory))]
    return "".join(f"{line}\n" for line in found)


def elided(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """What was printed, with the lines left out that the block leaves out; all of it where that cannot be told."""
    if not printed:
        return list(shown)
    if LEFT_OUT not in shown:
        return list(printed)
    kept = [line for line in shown if line != LEFT_OUT and line.strip()]
    if not kept:
        return list(shown)
    first = next((index for index, line in enumerate(printed) if line[:12] == kept[0][:12]), None)
    last = next((index for index in range(len(printed), 0, -1) if printed[index - 1][:12] == kept[-1][:12]), None)
    if first is None or last is None:
        return list(printed)
    return [
        *([LEFT_OUT] if shown[0] == LEFT_OUT else []),
        *printed[first:last],
        *([LEFT_OUT] if shown[-1] == LEFT_OUT else []),
    ]


def terminal_output(command: str, directory: str) -> list[str]:
    """The lines that a command prints on a terminal of 80 columns, without colours and spaces at their ends."""
    settings = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    reading, writing = pty.openpty()
    with subprocess.Popen(
        ["bash", "-c", SHELL + command],
        cwd=directory,
        env=os.environ | settings,
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
    plain = COLOUR.sub("", received.decode("utf-8", "replace"))
    return [line.rstrip() for line in plain.replace("\r\n", "\n").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
