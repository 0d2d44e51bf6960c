"""How early `fromage-diag check` warns of a run that goes wrong, and how often it blames healthy ones.

    python benchmarks/early_warning.py train --runs DIR --data DATA [--only NAME …]
    python benchmarks/early_warning.py judge --runs DIR [--results CSV] [--only NAME …] [--with-network PLACE …]
    python benchmarks/early_warning.py report [--results CSV] [--write PAGE] [--plot FILE]

`train` trains the runs of early_warning_recipes.py and writes ten checkpoints of each (10 minutes of one core). Runs
that DIR already holds are left out.
`judge` asks `check` at each of them in this process (40 minutes of one core): with files alone at every checkpoint, and
with the network and a batch at four of them. Answers that CSV already holds are left out, so that it goes on where it
was stopped. The losses of all runs go to a table beside CSV.
`report` prints the tables of docs/early-warning.md, or puts them into it, and draws its picture.
"""

import argparse
import csv
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import run_study_networks as networks
import torch
from early_warning_losses import behind_step, doubled_step, outlier_step
from early_warning_recipes import GOES_WRONG, JUDGED, RECIPES
from early_warning_report import RESULTS, losses_beside, report
from run_study_measuring import append_row, ask, model_words, short, steps_of
from run_study_training import Recipe, train_run

WITH_NETWORK = (1, 3, 5, 9)
"""Places of the checkpoints, from 0, at which the network is given as well."""


def chosen(recipes: Iterable[Recipe], names: list[str]) -> list[Recipe]:
    """Return the recipes whose names begin with one of these, or all."""
    return [recipe for recipe in recipes if not names or recipe.name.startswith(tuple(names))]


def train(given: argparse.Namespace) -> None:
    """Train the runs that are missing; a fine-tuned one needs the run it starts from, which stands before it."""
    for recipe in chosen(RECIPES, given.only):
        if (given.runs / recipe.name / "run.json").exists():
            continue
        started = time.process_time()
        last = train_run(recipe, given.runs, given.data)["losses"][-1]
        seconds = time.process_time() - started
        print(
            f"{recipe.name}: {last['train']:.3g} trained, {last['held_out']:.3g} held out, {seconds:.0f} s", flush=True
        )


def trained(runs: Path) -> list[Recipe]:
    """Return the recipes to judge whose runs are there."""
    return [recipe for recipe in JUDGED if (runs / recipe.name / "run.json").exists()]


def record_of(name: str, runs: Path) -> Any:
    """Return what training wrote of a run's losses."""
    return json.loads((runs / name / "run.json").read_text(encoding="utf-8"))


def write_losses(path: Path, runs: Path) -> None:
    """Write a row for each run: what it is, its last losses, and when its losses alone show that it goes wrong."""
    path.unlink(missing_ok=True)
    for recipe in trained(runs):
        record = record_of(recipe.name, runs)
        twin = record_of(recipe.twin, runs) if recipe.twin else None
        network = getattr(networks, recipe.network)(**recipe.arguments)
        begins = math.ceil(recipe.sick_from * recipe.steps)
        steps = {
            "outlier": outlier_step(record["curve"], begins),
            "doubled": doubled_step(record["curve"], begins),
            "behind": behind_step(record["curve"], twin["curve"]) if twin else None,
        }
        row = {
            "run": recipe.name,
            "group": "healthy" if not recipe.kind else "goes wrong" if recipe in GOES_WRONG else "stays",
            "kind": recipe.kind,
            "odd": recipe.odd,
            "seed": str(recipe.seed),
            "parameters": str(sum(parameter.numel() for parameter in network.parameters())),
            "optimizer": recipe.optimizer,
            "rate": f"{recipe.rate:g}",
            "steps": str(recipe.steps),
            "sick_from": str(begins),
            "train": short(record["losses"][-1]["train"]),
            "held_out": short(record["losses"][-1]["held_out"]),
            "twin": recipe.twin,
            "twin_train": short(twin["losses"][-1]["train"]) if twin else "",
            "twin_held_out": short(twin["losses"][-1]["held_out"]) if twin else "",
        }
        append_row(path, row | {name: "" if step is None else str(step) for name, step in steps.items()})


def judge(given: argparse.Namespace) -> None:
    """Ask about the checkpoints that the table has not yet, each written to it as it is done."""
    given.results.parent.mkdir(parents=True, exist_ok=True)
    write_losses(losses_beside(given.results), given.runs)
    done = set()
    if given.results.exists():
        with given.results.open(encoding="utf-8", newline="") as file:
            done = {(row["run"], int(row["step"]), row["network"]) for row in csv.DictReader(file)}
    for recipe in chosen(trained(given.runs), given.only):
        for place, step in enumerate(steps_of(recipe, given.runs)):
            for network in ("0", "1") if place in given.with_network else ("0",):
                if (recipe.name, step, network) in done:
                    continue
                row = judge_checkpoint(recipe, given.runs, place, with_network=network == "1")
                append_row(given.results, {"run": recipe.name, "step": str(step), "network": network} | row)
                print(f"{recipe.name} step {step}: {row['verdict']}, {row['seconds']} s", flush=True)


def judge_checkpoint(recipe: Recipe, runs: Path, place: int, *, with_network: bool) -> dict[str, str]:
    """Return what `check` says of a directory that holds the run up to this checkpoint."""
    files = sorted((runs / recipe.name).glob("step-*.pt"))[: place + 1]
    words: list[str] = []
    if with_network:
        files += [runs / recipe.name / name for name in ("fromage.toml", "batch.safetensors")]
        words = [*model_words(recipe), "--train-batch-size", str(recipe.batch_size)]
    with tempfile.TemporaryDirectory(dir=runs) as folder:
        run = Path(folder) / recipe.name
        run.mkdir()
        for file in files:
            os.link(file, run / file.name)
        started = time.process_time()
        answer = ask(["check", str(run), *words], Path(folder) / "answer.json")
        seconds = time.process_time() - started
        shutil.rmtree(run)
    result = answer.get("result") or {}
    return {
        "verdict": result.get("verdict", "none"),
        "seconds": f"{seconds:.1f}",
        "looked": " ".join(result.get("looked", ())),
        "error": (answer.get("error") or {}).get("code", ""),
        "findings": " ".join(told(answer.get("findings", ()))),
    }


def told(findings: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield each finding as `code:severity:layer`; of informations of one code the first alone."""
    seen = set()
    for one in findings:
        if one["severity"] != "info" or one["code"] not in seen:
            layer = (one["layer"] or "").replace(" ", "_")
            yield f"{one['code']}:{one['severity']}:{layer}"
        seen.add(one["code"])


def main() -> None:
    """Run one of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("train", "judge"):
        part = parts.add_parser(name)
        part.add_argument("--runs", type=Path, required=True)
        part.add_argument("--only", nargs="+", default=[], metavar="NAME")
        if name == "train":
            part.add_argument("--data", type=Path, required=True)
        else:
            part.add_argument("--results", type=Path, default=RESULTS)
            part.add_argument("--with-network", type=int, nargs="*", default=WITH_NETWORK, metavar="PLACE")
    part = parts.add_parser("report")
    part.add_argument("--results", type=Path, default=RESULTS)
    part.add_argument("--write", type=Path, metavar="PAGE")
    part.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "report":
        report(given.results, given.write, given.plot)
    else:
        {"train": train, "judge": judge}[given.part](given)


if __name__ == "__main__":
    main()
