"""Can `state` be trusted: no finding on healthy checkpoints of real training, and a finding for each fault?

    python benchmarks/state_study.py [--data DIRECTORY] [--only NAME …] [--results FILE] [--keep DIRECTORY]

Healthy runs of state_recipes.py and state_libraries.py are trained and saved. The command reads every checkpoint by
itself, every two consecutive ones, and each run as a whole. Then the faults of state_faults.py are put into
checkpoints of six runs, and the command reads the faulty one alone and with the two before it. Without DIRECTORY
rows are made up. One line of JSON for each run and each fault; --keep leaves the checkpoints there.
"""

import argparse
import copy
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from state_faults import ANOTHER_RUN, BASES, FAULTS, FAULTY, RESUMPTIONS, SPACINGS, Fault, Saved
from state_libraries import LIBRARIES
from state_recipes import HEALTHY
from state_runs import Recipe, plain

from fromage_cli.cli import main as program

RESULTS = Path(__file__).parent / "results" / "state_study.jsonl"
Line = dict[str, Any]


def ask(*paths: Path) -> list[dict[str, str | None]]:
    """The findings of the command, their words where they warn; where it ends with an error, that error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), suppress(SystemExit):
        program(["state", *map(str, paths), "--json", "--no-progress"])
    said = json.loads(out.getvalue() or "{}")
    if "findings" not in said:
        return [{"code": "error", "severity": "fail", "layer": None, "message": err.getvalue()}]
    keys = ("code", "severity", "layer", "message")
    return [{key: one[key] for key in keys[: 3 if one["severity"] == "info" else 4]} for one in said["findings"]]


def healthy(name: str, paths: Sequence[Path]) -> Line:
    """What the command says of a run's checkpoints, pairs and whole."""
    return {
        "healthy": name,
        "checkpoints": [path.name for path in paths],
        "single": [ask(path) for path in paths],
        "pairs": [ask(*pair) for pair in pairwise(paths)],
        "series": ask(*paths),
    }


def healthy_runs(folder: Path, data: Path | None, only: Sequence[str]) -> Iterator[Line]:
    """All of them, those of libraries last."""
    for recipe in HEALTHY:
        if not only or recipe.name in only:
            yield healthy(recipe.name, plain(recipe, folder / recipe.name, data))
    for name, (library, write) in LIBRARIES.items():
        if only and name not in only:
            continue
        if importlib.util.find_spec(library) is None:
            print(f"left out: {name} needs {library}")
            continue
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = write(folder / name, data)
        yield healthy(name, paths)


def written(series: Sequence[Saved], folder: Path) -> list[Path]:
    """Write checkpoints under their steps."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step-{saved['step']:06d}.pt" for saved in series]
    for saved, path in zip(series, paths, strict=True):
        torch.save(saved, path)
    return paths


def loaded(folder: Path, steps: Sequence[int]) -> list[Saved]:
    """Checkpoints of a run."""
    return [torch.load(folder / f"step-{step:06d}.pt", weights_only=True) for step in steps]


def told(where: Line, named: Sequence[str], layers: Sequence[str], paths: Sequence[Path]) -> Line:
    """What the command says of a faulty checkpoint, alone and beside those before."""
    return {**where, "named": named, "layers": layers, "single": ask(paths[-1]), "series": ask(*paths)}


def can_have(recipe: Recipe, fault: Fault) -> bool:
    """Whether checkpoints of a run can have a fault."""
    kept = recipe.optimizer in ("adam", "adamw") or not fault.second_moments
    return kept and (recipe.precision == "float32" or not fault.master)


def faulty(recipe: Recipe, spacing: str, steps: Sequence[int], base: Path, data: Path | None) -> Iterator[Line]:
    """Every fault in the last of three steps of a run, `base` holding the clean run and one of another seed."""
    here, clean = base / spacing, loaded(base / "clean", steps)
    where = {"run": recipe.name, "spacing": spacing}
    yield told({"fault": "none", **where}, [], [], written(clean, here / "none"))
    for fault in FAULTS:
        if can_have(recipe, fault):
            series = copy.deepcopy(clean)
            layers = fault.edit(series)
            paths = written(series, here / fault.name.replace(" ", "-"))
            yield told({"fault": fault.name, **where}, fault.named, layers, paths)
    another = written([*clean[:-1], *loaded(base / "other", steps[-1:])], here / "another-run")
    yield told({"fault": "checkpoint of another run", **where}, ANOTHER_RUN, [], another)
    for name, (way, named) in RESUMPTIONS.items():
        if way != "warm-up-again" or recipe.schedule != "constant":
            wrong = replace(recipe, resumed=steps[-2], resumption=way, saved=tuple(steps))
            yield told({"fault": name, **where}, named, [], plain(wrong, here / way, data))


def faulty_runs(folder: Path, data: Path | None, only: Sequence[str]) -> Iterator[Line]:
    """All faults, in checkpoints far apart and close together."""
    for recipe in BASES:
        if not only or recipe.name in only:
            base = folder / "faults" / recipe.name
            plain(recipe, base / "clean", data)
            plain(replace(recipe, seed=1, saved=(FAULTY,)), base / "other", data)
            for spacing, steps in SPACINGS.items():
                yield from faulty(recipe, spacing, steps, base, data)


def main() -> None:
    """Write a line for each run and each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="These runs only.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="Leave the checkpoints here.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary, asked.results.open("w", encoding="utf-8") as file:
        folder = asked.keep or Path(temporary)
        for runs in (healthy_runs, faulty_runs):
            for line in runs(folder, asked.data, asked.only):
                file.write(f"{json.dumps(line)}\n")
                print(line.get("healthy") or f"{line['fault']}, {line['run']}, {line['spacing']}", flush=True)


if __name__ == "__main__":
    main()
