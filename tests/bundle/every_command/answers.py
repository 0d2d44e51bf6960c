"""Answers lines of the program, one after the other, in a process and a folder that hold none of a run's code."""

import contextlib
import json
import sys
from pathlib import Path

TRAINERS = ("lightning", "pytorch_lightning", "transformers", "accelerate", "tests")


def main(place: Path, without: bool) -> None:
    """Write `NAME.json` for each line in `lines.json`; `without`: what trains is not installed."""
    if without:
        sys.modules |= dict.fromkeys(TRAINERS)  # type: ignore[arg-type]
    from fromage_cli import cli

    lines = json.loads((place / "lines.json").read_text(encoding="utf-8"))
    with contextlib.chdir(place):
        for name, words in lines.items():
            with contextlib.suppress(SystemExit):
                cli.main([*words, "-q", "-o", f"{name}.json"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "without")
