"""How much is lost at the rate that `suggest-lr` recommends: the study behind it.

    python benchmarks/learning_rate_study.py STAGE --data DATA [--results DIR] [--part PART] [--steps N]

The stages: `grid` trains every pair of network, optimizer and schedule at rates an octave apart; `probes` makes the
short runs of `suggest-lr` for each, on five training batches and on others; `report` prints the tables of
docs/learning-rate-study.md. What is done is found again in DIR (benchmarks/results), so that a
stage that was stopped goes on where it was. DATA is a folder with mnist.npz, cifar10_jpeg.npz and tinyshakespeare.txt.
The whole takes some eight hours of one idle core.
"""

import argparse
import time
from pathlib import Path

import torch
from learning_rate_grid import search
from learning_rate_pairs import PARTS, Pair, all_pairs
from learning_rate_probes import BUDGETS, short_runs
from learning_rate_report import report
from learning_rate_results import grid_of, short_runs_of


def grid(pair: Pair, given: argparse.Namespace) -> str:
    """The best rate."""
    best = search(pair, grid_of(given.results), given.data)
    return f"{best:.3g}"


def probes(pair: Pair, given: argparse.Namespace) -> str:
    """The short runs."""
    results = short_runs_of(given.results)
    for variant in BUDGETS:
        if (pair.key, variant) not in results.found:
            results.add({"pair": pair.key, "variant": variant} | short_runs(pair, variant, given.data))
    return ""


STAGES = {"grid": grid, "probes": probes}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "report"])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, default=None)
    parser.add_argument("--steps", type=int, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given.results.mkdir(parents=True, exist_ok=True)
    if given.stage == "report":
        report(given.results, given.data)
        return
    for pair in all_pairs(given.data):
        if given.part not in (None, pair.part) or given.steps not in (None, pair.steps):
            continue
        started = time.process_time()
        found = STAGES[given.stage](pair, given)
        print(f"{pair.key}\t{found}\t{time.process_time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
