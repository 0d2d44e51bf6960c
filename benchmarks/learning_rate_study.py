"""How far each estimate of a learning rate is from the rate that trains best: the study behind the calibration.

    python benchmarks/learning_rate_study.py checkpoints|grid|estimates|report --results DIR [--data DIR] [--quick]

`checkpoints` trains every network once per optimizer at a rate drawn at random and keeps what it looks like on the way;
`grid` searches the rate with the least held-out loss (factors of 2, three seeds, 200 steps, constant rate); `estimates`
applies every estimator to every checkpoint; `report` prints the tables of docs/learning-rate-study.md. What is done is
found again in DIR, so that a stage that was stopped goes on where it was. `--data` is a folder with mnist.npz; without
it the networks on MNIST are left out.
"""

import argparse
import time
from pathlib import Path

import torch
from learning_rate_networks import Task, all_tasks
from learning_rate_probes import short_runs
from learning_rate_training import START, Results, Search, untuned_run


def checkpoints(tasks: list[Task], given: argparse.Namespace) -> None:
    """The untuned runs."""
    for task in tasks:
        for optimizer in START:
            untuned_run(task, optimizer, given.results, given.data)


def grid(tasks: list[Task], given: argparse.Namespace) -> None:
    """The search for every best rate."""
    results = Results(given.results / "grid.jsonl", ("task", "optimizer", "octave", "seed"))
    for task in tasks:
        for optimizer in START:
            started = time.process_time()
            best = Search(task, optimizer, results, given.data).run()
            seconds = time.process_time() - started
            print(f"{task.name}\t{optimizer}\t{START[optimizer] * 2.0**best:.4g}\t{seconds:.0f} s", flush=True)


def probes(tasks: list[Task], given: argparse.Namespace) -> None:
    """Short runs from new initialisations (step -1) and from every checkpoint."""
    results = Results(given.results / "short-runs.jsonl", ("task", "optimizer", "step"))
    for step in (None, 200, 50, 20, 100, 10, 0):
        for task in tasks:
            for optimizer in START:
                key = (task.name, optimizer, -1 if step is None else step)
                if key not in results.found:
                    found = short_runs(task, optimizer, step, given.results, given.data)
                    results.add({"task": task.name, "optimizer": optimizer, "step": key[2]} | found)


STAGES = {"checkpoints": checkpoints, "grid": grid, "probes": probes}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.results.mkdir(parents=True, exist_ok=True)
    STAGES[given.stage](all_tasks(given.data), given)


if __name__ == "__main__":
    main()
