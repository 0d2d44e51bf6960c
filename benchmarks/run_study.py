"""Whether the tool's findings and numbers tell healthy training runs from sick ones: the study behind their severities.

    python benchmarks/run_study.py train --runs DIR --data DATA [--only NAME …]
    python benchmarks/run_study.py measure --runs DIR --results CSV [--only NAME …] [--leave-out SHARE …]
    python benchmarks/run_study.py report CSV [--plot FILE]

`train` trains the runs of run_study_recipes.py and writes five checkpoints of each (5 minutes of one core).
`measure` runs the tool at each of them in this process (20 minutes of one core). Checkpoints that CSV already holds are
left out, so that it goes on where it was stopped; `--leave-out .25 .75` leaves out those at these shares of a run.
`report` prints the tables of docs/run-study.md and draws its picture. DATA is a folder with tinyshakespeare.txt,
mnist.npz and cifar10_jpeg.npz.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from run_study_measuring import append_row, measure_checkpoint, steps_of
from run_study_recipes import RECIPES
from run_study_report import report
from run_study_training import Recipe, train_run


def chosen(names: list[str]) -> list[Recipe]:
    """Return the recipes of these names in this order, or all."""
    known = {recipe.name: recipe for recipe in RECIPES}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no run named {', '.join(unknown)}")
    return [known[name] for name in names or known]


def train(given: argparse.Namespace) -> None:
    """Train the runs; a fine-tuned one needs the run it starts from, which stands before it."""
    for recipe in chosen(given.only):
        started = time.process_time()
        last = train_run(recipe, given.runs, given.data)["losses"][-1]
        seconds = time.process_time() - started
        print(
            f"{recipe.name}: {last['train']:.3g} trained, {last['held_out']:.3g} held out, {seconds:.0f} s", flush=True
        )


def measure(given: argparse.Namespace) -> None:
    """Measure the checkpoints that the table has not yet, each written to it as it is done."""
    done = set()
    if given.results.exists():
        with given.results.open(encoding="utf-8", newline="") as file:
            done = {(row["run"], int(row["step"])) for row in csv.DictReader(file)}
    given.results.parent.mkdir(parents=True, exist_ok=True)
    for recipe in chosen(given.only):
        for place, step in enumerate(steps_of(recipe, given.runs)):
            if (recipe.name, step) in done or step / recipe.steps in given.leave_out:
                continue
            row = measure_checkpoint(recipe, given.runs, place)
            append_row(given.results, row)
            print(f"{recipe.name} step {step}: {row['seconds']} s", flush=True)


def main() -> None:
    """Run one of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("train", "measure"):
        part = parts.add_parser(name)
        part.add_argument("--runs", type=Path, required=True)
        part.add_argument("--only", nargs="+", default=[], metavar="NAME")
        part.add_argument(*(("--data",) if name == "train" else ("--results",)), type=Path, required=True)
        if name == "measure":
            part.add_argument("--leave-out", type=float, nargs="+", default=[], metavar="SHARE")
    part = parts.add_parser("report")
    part.add_argument("results", type=Path)
    part.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "report":
        report(given.results, given.plot)
    else:
        {"train": train, "measure": measure}[given.part](given)


if __name__ == "__main__":
    main()
