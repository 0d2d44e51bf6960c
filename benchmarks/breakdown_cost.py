"""What a breakdown curve costs, beside the bare passes it is made of: ratios, measured side by side in one run.

    python benchmarks/breakdown_cost.py [--quick]

Time: measuring a ray of K points (K + 1 gradients, every tensor reduced) divided by K + 1 bare forward and backward
passes, taken in turns. Memory: the peak of the whole measurement, the product and the depth at its end included, above
that of a bare pass that frees every gradient as it appears, in units of the weights; each figure from a process of its
own. Goals: time at most 1.10 from two million parameters up and 1.25 below; memory at most 2.2 weights, 1.2 with
`--reload`, and one more for `adam` and `to:`.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.breakdown.direction_option import make_direction, moved_by_default
from fromage_cli.diagnostics.breakdown.measure import measure
from fromage_cli.optimizers.settings import Given
from fromage_cli.probes.lines.direction import Direction, moving_tensors
from fromage_cli.probes.lines.ray import measure_ray
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss
from fromage_cli.problem.networks.weights import load_weights, weight_reader
from fromage_cli.process_memory import largest_resident

POINTS = 17
"""As many as the default grid has."""
DIRECTIONS = ("fromage", "sgd", "random", "adam", "to:")
WIDTHS = {"70 thousand": 128, "2 million": 700, "10 million": 1570}
MEMORY_WIDTH = 2900
"""Five layers of 8 million parameters: large beside everything else in the process."""


def network(width: int) -> nn.Module:
    """Four hidden layers and an output, as wide as the input."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def make_problem(width: int, rows: int) -> Problem:
    """A classification problem on random rows."""
    model = network(width)
    batch = as_batch({"x": torch.randn(rows, width), "y": torch.randint(10, (rows,))}, "random rows")
    return Problem(model, resolve_loss("cross-entropy", model, batch), batch)


def ray(problem: Problem, name: str) -> Callable[[], None]:
    """Measures a ray of POINTS points along a direction that is made beforehand."""
    direction = direction_of(problem, name)
    return lambda: measure_ray(problem, direction, etas()) and None


def direction_of(problem: Problem, name: str) -> Direction:
    """The direction of that name."""
    with tempfile.TemporaryDirectory() as folder:
        typed = elsewhere(problem, folder) if name == "to:" else name
        tensors, _ = moving_tensors(problem, moved_by_default(name))
        return make_direction(typed, problem, tensors, None, Given())


def etas() -> tuple[float, ...]:
    """The grid."""
    return tuple(10.0 ** (-4 + 4 * point / POINTS) for point in range(POINTS))


def elsewhere(problem: Problem, folder: str) -> str:
    """The way to a checkpoint nearby, as it is typed."""
    path = Path(folder) / "there.safetensors"
    scale(problem.model, 2.0)
    save_file(problem.model.state_dict(), path)
    scale(problem.model, 0.5)
    return f"to:{path}"


@torch.no_grad()
def scale(model: nn.Module, factor: float) -> None:
    """Multiplies all weights where they are."""
    for parameter in model.parameters():
        parameter.mul_(factor)


def bare(problem: Problem, passes: int) -> Callable[[], None]:
    """Forward and backward passes as a training loop makes them."""
    x, y = problem.batch.data["x"], problem.batch.data["y"]

    def run() -> None:
        for _ in range(passes):
            problem.model.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(problem.model(x), y).backward()
        problem.model.zero_grad(set_to_none=True)

    return run


def seconds(run: Callable[[], None]) -> float:
    """Seconds of processor time of one call; other processes do not count."""
    started = time.process_time()
    run()
    return time.process_time() - started


def time_ratio(width: int, rows: int, name: str, rounds: int) -> tuple[float, float]:
    """A ray's time over that of its bare passes, taken in turns: least over least, and the median of the ratios.

    What else the machine does can only add to either, so the first is the truer the busier it is.
    """
    problem = make_problem(width, rows)
    measured, plain = ray(problem, name), bare(problem, POINTS + 1)
    measured(), plain()
    taken = [(seconds(measured), seconds(plain)) for _ in range(rounds)]
    least = min(ray for ray, _ in taken) / min(passes for _, passes in taken)
    return least, statistics.median(ray / passes for ray, passes in taken)


def peak(width: int, rows: int, what: str) -> None:
    """Prints this process's peak resident bytes after `what`: `bare`, a direction, or a direction with `+reload`."""
    name, _, reload = what.partition("+")
    problem = make_problem(width, rows)
    with tempfile.TemporaryDirectory() as folder:
        if reload:
            path = Path(folder) / "weights.safetensors"
            save_file(problem.model.state_dict(), path)
            checkpoint = open_checkpoint(path)
            load_weights(problem.model, checkpoint)
            problem.saved = weight_reader(problem.model, checkpoint)
        if name == "bare":
            problem.visit_gradient(lambda *_: None)
        else:
            measure(problem, direction_of(problem, name), etas(), last=True)
    print(largest_resident())


def memory_ratio(width: int, rows: int, what: str, baseline: int) -> float:
    """Peak above the baseline, in weights."""
    weights = sum(parameter.nbytes for parameter in network(width).parameters())
    return (peak_of(width, rows, what) - baseline) / weights


def peak_of(width: int, rows: int, what: str) -> int:
    """The peak resident bytes of a fresh process."""
    command = [sys.executable, __file__, "--peak", what, "--width", str(width), "--rows", str(rows)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size and fewer rounds")
    parser.add_argument("--rows", type=int, default=250, help="rows of the batch")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        return peak(arguments.width, arguments.rows, arguments.peak)
    print(f"{'parameters':>14}  {'direction':9}  time ratio: of the least times, median")
    for label, width in list(WIDTHS.items())[: 1 if arguments.quick else None]:
        for name in DIRECTIONS:
            rounds = 8 if arguments.quick else max(8, 30_000 // width)
            least, middle = time_ratio(width, arguments.rows, name, rounds)
            print(f"{label:>14}  {name:9}  {least:.3f}  {middle:.3f}", flush=True)
    width = 1000 if arguments.quick else MEMORY_WIDTH
    baseline = peak_of(width, 8, "bare")
    print(f"\n{'direction':14}  memory above weights and activations, in weights")
    for what in (*DIRECTIONS, *(f"{name}+reload" for name in DIRECTIONS)):
        print(f"{what:14}  {memory_ratio(width, 8, what, baseline):.2f}", flush=True)


if __name__ == "__main__":
    main()
