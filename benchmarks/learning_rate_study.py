"""How far each estimate of a learning rate is from the rate that trains best: the study behind the calibration.

    python benchmarks/learning_rate_study.py STAGE --results DIR [--data DIR] [--steps 0 50 200] [--quick]

The stages, in this order: `checkpoints` trains every network once per optimizer at a rate drawn at random and keeps
what it looks like on the way; `grid` searches the rate with the least held-out loss (factors of 2, three seeds, 200
steps, constant rate); `probes` and `estimates` apply every estimator to new initialisations and to the checkpoints at
`--steps`, `finder` the range test; `report` prints the tables of docs/learning-rate-study.md. `all` is all of them.
What is done is found again in DIR, so that a stage that was stopped goes on where it was. `--data` is a folder with
mnist.npz; without it the networks on MNIST are left out. `--quick` takes four networks, one optimizer and two
checkpoints: half a minute. The whole takes about 80 minutes of one core, 50 of them for the grid.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from learning_rate_finder import range_test
from learning_rate_networks import Task, all_tasks
from learning_rate_probes import FRESH_SEED, local_estimates, short_runs
from learning_rate_report import Study
from learning_rate_tables import report
from learning_rate_training import CHECKPOINT_STEPS, START, Results, Search, untuned_run

Work = Callable[[Task, str, int], dict[str, object]]


def checkpoints(tasks: list[Task], given: argparse.Namespace) -> None:
    """The untuned runs."""
    for task in tasks:
        for optimizer in given.optimizers:
            untuned_run(task, optimizer, given.results, given.data)


def grid(tasks: list[Task], given: argparse.Namespace) -> None:
    """The search for every best rate."""
    results = Results(given.results / "grid.jsonl", ("task", "optimizer", "octave", "seed"))
    for task in tasks:
        for optimizer in given.optimizers:
            started = time.process_time()
            best = Search(task, optimizer, results, given.data).run()
            seconds = time.process_time() - started
            print(f"{task.name}\t{optimizer}\t{START[optimizer] * 2.0**best:.4g}\t{seconds:.0f} s", flush=True)


def each(name: str, tasks: list[Task], given: argparse.Namespace, steps: Sequence[int], work: Work) -> None:
    """What is measured of every network at every step, kept in one file; step -1 is a new initialisation.

    Networks that no choice has seen test the recommendation from new weights; at trained ones they are left out.
    """
    results = Results(given.results / f"{name}.jsonl", ("task", "optimizer", "step"))
    for step in steps:
        for task in tasks if step < 0 else [task for task in tasks if task.part != "unseen"]:
            for optimizer in given.optimizers:
                if (task.name, optimizer, step) not in results.found:
                    results.add({"task": task.name, "optimizer": optimizer, "step": step} | work(task, optimizer, step))


def probes(tasks: list[Task], given: argparse.Namespace) -> None:
    """Short runs from new initialisations and from every checkpoint of the untuned runs."""

    def work(task: Task, optimizer: str, step: int) -> dict[str, object]:
        return short_runs(task, optimizer, None if step < 0 else step, given.results, given.data)

    each("short-runs", tasks, given, [-1, *filter(None, given.steps)], work)


def finder(tasks: list[Task], given: argparse.Namespace) -> None:
    """The range test from the initialisations that short runs start from, too."""
    each("finder", tasks, given, [-1], lambda task, optimizer, _: range_test(task, optimizer, FRESH_SEED, given.data))


def estimates(tasks: list[Task], given: argparse.Namespace) -> None:
    """Estimates without training at every checkpoint."""

    def work(task: Task, optimizer: str, step: int) -> dict[str, object]:
        return local_estimates(task, optimizer, step, given.results, given.data)

    each("estimates", tasks, given, given.steps, work)


def tables(tasks: list[Task], given: argparse.Namespace) -> None:
    """What it all says."""
    report(Study(tasks, given.results))


QUICK = ("mlp-2", "mlp-3", "inputs-x10", "init-x3")
STAGES = {
    "checkpoints": checkpoints,
    "grid": grid,
    "probes": probes,
    "finder": finder,
    "estimates": estimates,
    "report": tables,
}


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 200], choices=CHECKPOINT_STEPS)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.results.mkdir(parents=True, exist_ok=True)
    tasks = all_tasks(given.data)
    given.optimizers = ["adamw"] if given.quick else list(START)
    given.steps = [0, 50] if given.quick else given.steps
    for stage in STAGES.values() if given.stage == "all" else [STAGES[given.stage]]:
        stage([task for task in tasks if task.name in QUICK] if given.quick else tasks, given)


if __name__ == "__main__":
    main()
