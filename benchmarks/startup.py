"""How fast the program starts, beside Typer programs that do nothing: ratios of processor time, measured side by side.

    python benchmarks/startup.py [--runs N]

Each figure is the median of whole processes, run in turns, their user and system time together: on a machine that does
other things too it is steadier than the time on the clock. Everything is compiled beforehand. The program beside it has
the same commands with the same flags and empty bodies, in one file; for `norms` on a small file it is one empty command
that imports numpy. Goals: at most 1.3 for the root's help, 1.4 for a command's, 1.6 for `norms`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromage_cli.cli import build_program

ROOT = Path(__file__).parent.parent
SMALL = ROOT / "sample_checkpoints" / "mlp-2" / "step-000440.safetensors"
ONE_EMPTY_COMMAND = """
import numpy
import typer

def main(path: str) -> None:
    "Nothing."

typer.run(main)
"""


def program_without_bodies() -> str:
    """The source of a Typer program with our commands, arguments and flags, which does nothing."""
    program = build_program()
    lines = ["import typer", "app = typer.Typer(rich_markup_mode='rich')"]
    for name in program.commands:
        command: Any = program.command(name)
        signature = ", ".join(parameter_source(parameter) for parameter in command.params)
        lines += [
            f"@app.command({name!r})",
            f"def {name.replace('-', '_')}({signature}) -> None:",
            f"    {command.help!r}",
        ]
    return "\n".join([*lines, "app()", ""])


def parameter_source(parameter: Any) -> str:
    """A parameter of a command as the source of a function's parameter."""
    if parameter.param_type_name == "argument":
        return f"{parameter.name}: str = typer.Argument(None, help={parameter.help!r})"
    kind, default = ("bool", False) if parameter.is_flag else ("str", None)
    names = ", ".join(map(repr, parameter.opts))
    looks = f"help={parameter.help!r}, metavar={parameter.metavar!r}, rich_help_panel={parameter.rich_help_panel!r}"
    return f"{parameter.name}: {kind} = typer.Option({default}, {names}, {looks})"


def processor_seconds(arguments: Sequence[str], folder: Path) -> float:
    """User and system time of one Python process that runs a module of ours, or one in the folder."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print each ratio with what it is made of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=31)
    runs = parser.parse_args().runs
    pairs = {
        "--help": (["--help"], ["empty_commands", "--help"], 1.3),
        "norms --help": (["norms", "--help"], ["empty_commands", "norms", "--help"], 1.4),
        "norms on a small file": (["norms", str(SMALL)], ["empty_command", str(SMALL)], 1.6),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "empty_commands.py").write_text(program_without_bodies(), encoding="utf-8")
        (folder / "empty_command.py").write_text(ONE_EMPTY_COMMAND, encoding="utf-8")
        for _ in range(runs + 1):
            for name, (arguments, empty, _) in pairs.items():
                both = (["fromage_cli", *arguments], empty)
                ours, theirs = (processor_seconds(one, folder) for one in both)
                seconds[name].append((ours, theirs))
    for name, measured in seconds.items():
        ours, theirs = (statistics.median(column) for column in zip(*measured[1:], strict=True))  # the first compiled
        print(f"{name:24}{ours / theirs:5.2f} x  ({ours:.3f} s beside {theirs:.3f} s; goal {pairs[name][2]})")


if __name__ == "__main__":
    main()
