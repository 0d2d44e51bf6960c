"""What one forward pass tells of the runs of the run study, healthy and sick.

    python benchmarks/forward_pass_study.py measure --runs DIR --data DATA --results CSV
    python benchmarks/forward_pass_study.py report CSV

`measure` looks at every checkpoint that `run_study.py train` has written (half a minute of one core). `report` prints
each quantity's range in healthy and in sick runs, and which runs each finding of `check` blames.
"""

import argparse
import csv
from pathlib import Path

import run_study_networks as networks
import torch
from run_study_measuring import steps_of
from run_study_recipes import RECIPES
from run_study_training import Recipe, data_of
from safetensors.torch import load_file

from fromage_cli.diagnostics.check.forward_findings import judge_forward
from fromage_cli.missing import Missing, known
from fromage_cli.probes.forward_pass.measure import ForwardPass, HeldOut, look_at_forward_pass
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss

QUANTITIES = {
    "dead share": "the largest share of a layer's units that are 0 on every row",
    "statistics distance": "the largest distance of running from batch statistics of a layer, nats",
    "times expected": "the same over what so many rows give by chance",
    "evaluation": "the loss in evaluation behaviour ÷ that in training behaviour",
    "guessing": "the loss ÷ that of guessing",
    "held out, guessing": "the loss of held-out rows, normalised as in training, ÷ that of guessing",
    "held out": "the same loss ÷ that of the batch",
}
"""What is kept of each checkpoint, by its name in the table; missing where there is none."""


def look(recipe: Recipe, folder: Path, step: int, held_out: Batch) -> ForwardPass:
    """Return what one forward pass tells of a checkpoint."""
    model = getattr(networks, recipe.network)(**recipe.arguments)
    state = torch.load(folder / f"step-{step:06d}.pt", weights_only=True)
    model.load_state_dict(state["model"])
    batch = as_batch(load_file(folder / "batch.safetensors"), "batch")
    return look_at_forward_pass(Problem(model, resolve_loss("auto", model, batch), batch), held_out)


def quantities(found: ForwardPass) -> dict[str, float | None]:
    """Return every number of QUANTITIES that this pass has."""
    rows, guessing = found.held_out, known(found.guessing)
    assert isinstance(rows, HeldOut) and not isinstance(rows.guessing, Missing)
    farthest = max(found.batch_statistics, key=lambda layer: layer.distance, default=None)
    return {
        "dead share": max((layer.share for layer in found.units), default=None),
        "statistics distance": None if farthest is None else farthest.distance,
        "times expected": None if farthest is None else farthest.distance / farthest.expected_distance,
        "evaluation": None if farthest is None else found.loss_in_evaluation / found.loss,
        "guessing": None if guessing is None else guessing.ratio,
        "held out, guessing": rows.loss / rows.guessing.guess,
        "held out": rows.loss / found.loss,
    }


def measure(given: argparse.Namespace) -> None:
    """Measure every checkpoint of every run, and write the table."""
    rows = []
    for recipe in RECIPES:
        x, y = data_of(recipe, given.data)[1]
        held_out = as_batch({"x": x, "y": y}, "held-out rows")
        for step in steps_of(recipe, given.runs):
            found = look(recipe, given.runs / recipe.name, step, held_out)
            share = step / recipe.steps
            told = [f"{one.code}:{one.severity}" for one in judge_forward(found, trained=step > 0)]
            numbers = {name: "" if value is None else f"{value:.4g}" for name, value in quantities(found).items()}
            rows.append(
                {
                    "run": recipe.name,
                    "half": recipe.half,
                    "kind": recipe.kind,
                    "sick": int(bool(recipe.kind) and recipe.sick_from <= share <= recipe.sick_until),
                    "step": step,
                    "findings": " ".join(dict.fromkeys(told)),
                }
                | numbers
            )
        print(recipe.name, flush=True)
    with given.results.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def report(results: Path) -> None:
    """Print the tables of healthy and sick runs; before the first step only the dead share counts."""
    with results.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["kind"] or row["sick"] == "1"]
    print("| quantity | healthy | sick |\n|---|---|---|")
    for name, meaning in QUANTITIES.items():
        ends = []
        for sick in (False, True):
            counted = [row for row in rows if bool(row["kind"]) == sick and row[name]]
            by_run: dict[str, float] = {}
            for row in counted:
                if row["step"] != "0" or name == "dead share":
                    by_run[row["run"]] = max(by_run.get(row["run"], 0.0), float(row[name]))
            ends.append(f"{min(by_run.values()):.3g} to {max(by_run.values()):.3g} ({len(by_run)})")
        print(f"| {name}: {meaning} | {' | '.join(ends)} |")
    print("\n| finding | healthy, choosing | testing | sick, choosing | testing |\n|---|---|---|---|---|")
    codes = sorted({code for row in rows for code in row["findings"].split()})
    for code in codes:
        cells = []
        for sick in (False, True):
            for half in ("choosing", "testing"):
                group = [row for row in rows if row["half"] == half and bool(row["kind"]) == sick]
                blamed = dict.fromkeys(row["run"] for row in group if code in row["findings"].split())
                cells.append(f"{len(blamed)} of {len({row['run'] for row in group})}: {', '.join(blamed)}")
        print(f"| {code} | {' | '.join(cells)} |")


def main() -> None:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("measure")
    for name in ("--runs", "--data", "--results"):
        part.add_argument(name, type=Path, required=True)
    parts.add_parser("report").add_argument("results", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "report":
        report(given.results)
    else:
        measure(given)


if __name__ == "__main__":
    main()
