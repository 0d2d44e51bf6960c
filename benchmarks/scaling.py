"""How the time of a measurement grows with the network, the rows and the points, and what a second process saves.

    python benchmarks/scaling.py ranks [--rounds N]
    python benchmarks/scaling.py cost [--rounds N]
    python benchmarks/scaling.py report [--plot FILE]

`ranks`: two ranks of one thread each against one, on a perceptron of 0.3 million parameters. Both are measured in turns
by the same two processes, once those run, and so are the whole commands with their start; goal 1.7 for the measuring.
Another process that computes beside it makes the seconds of the clock worse, and those of two ranks most. So the
processor's seconds stand beside them, for two ranks those of the busier one, without what it waits. `cost`: a breakdown
over two decades of parameters, of rows and of points, in seconds of one processor; the least of the rounds counts, and
what else the machine does can only add to it. Both write `benchmarks/results/scaling.csv`, whose tables and picture
`report` makes.
"""

import argparse
import csv
import math
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fromage_cli import ranks
from fromage_cli.diagnostics.breakdown.direction_option import make_direction
from fromage_cli.diagnostics.breakdown.measure import measure as measure_breakdown
from fromage_cli.diagnostics.sharpness.cost import Request
from fromage_cli.diagnostics.sharpness.measure import measure as measure_sharpness
from fromage_cli.optimizers.settings import Given, Optimizer
from fromage_cli.probes.cost import gradients
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss

RESULTS = Path(__file__).parent / "results" / "scaling.csv"
POINTS, SIMULATED, TOLERANCE = 17, 1, "1e-2"
COMPUTE_BOUND = (256, 16384)
"""Width of the perceptron, a quarter of a million parameters, and rows."""
WIDTHS = (208, 304, 448, 640, 960, 1440, 2080)
ROWS = (640, 1280, 3200, 6400, 12800, 32000, 64000)
COUNTS = (5, 10, 25, 50, 100, 250, 500)
NETWORK = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from scaling import COMPUTE_BOUND, data_of, network

def build():
    return network(COMPUTE_BOUND[0])

def rows():
    return data_of(*COMPUTE_BOUND)
"""
"""What the whole command is given."""


@dataclass(frozen=True)
class Line:
    """One measurement."""

    part: str
    """`measuring`, `command`, or what is varied."""
    command: str
    parameters: int
    rows: int
    points: int
    ranks: int
    seconds: float
    """Of the clock."""
    processor: float
    """Seconds that it computed, of several ranks the busiest; 0 of whole commands."""
    gradients: float
    """Of all rows, that were computed."""


def network(width: int) -> nn.Module:
    """Four hidden layers and an output, as wide as the input."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def data_of(width: int, rows: int) -> dict[str, torch.Tensor]:
    """Random rows and classes."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, width, generator=generator)
    return {"x": inputs, "y": torch.randint(10, (rows,), generator=generator)}


def problem_of(width: int, rows: int, shared: ranks.Ranks = ranks.ALONE) -> Problem:
    """A classification problem on random rows."""
    model, batch = network(width), as_batch(data_of(width, rows), "random rows")
    return Problem(model, resolve_loss("cross-entropy", model, batch), batch, ranks=shared)


def breakdown(problem: Problem, points: int = POINTS) -> None:
    """As the command measures it, on so many points."""
    etas = tuple(10.0 ** (-4 + 4 * point / points) for point in range(points))
    direction = make_direction("fromage", problem, problem.layers, None, Given())
    measure_breakdown(problem, direction, etas, last=True)


def sharpness(problem: Problem) -> None:
    """As the command measures it, at a low tolerance and with one step of the quadratic model."""
    optimizer = Optimizer("adamw", learning_rate=1e-3)
    request = Request(simulated_steps=SIMULATED, tolerance=float(TOLERANCE))
    measure_sharpness(problem, problem.receiving, optimizer, None, request=request)


MEASURES: dict[str, Callable[[Problem], None]] = {"breakdown": breakdown, "sharpness": sharpness}


class Seconds(NamedTuple):
    """What a run took."""

    clock: float
    processor: float


def timed_run(measure: Callable[..., None], problem: Problem, *arguments: int) -> tuple[Seconds, float]:
    """What measuring took, and the gradients of all rows that it computed."""
    began = time.perf_counter(), time.process_time()
    measure(problem, *arguments)
    taken = Seconds(time.perf_counter() - began[0], time.process_time() - began[1])
    return taken, gradients(problem.evaluations)


def parameters_of(width: int) -> int:
    """Of the perceptron."""
    return sum(parameter.numel() for parameter in network(width).parameters())


def measured_by_ranks(index: int, port: int, rounds: int, barrier: Any, found: Any) -> None:
    """One of two ranks: the first measures alone while the other waits, then both together; in turns."""
    torch.set_num_threads(1)
    both = ranks.join(ranks.Place(index, 2, index, "localhost", port))
    for round in range(rounds + 1):  # what is loaded in the first does not count
        for command, measure in MEASURES.items():
            for shared in (ranks.ALONE, both):
                barrier.wait()
                if not (shared.several or both.leads):
                    continue
                problem = problem_of(*COMPUTE_BOUND, shared)
                timed, made = timed_run(measure, problem)
                busiest = max(shared.of_each(timed.processor))
                if round and both.leads:
                    sizes = parameters_of(COMPUTE_BOUND[0]), COMPUTE_BOUND[1], POINTS
                    found.put(Line("measuring", command, *sizes, shared.count, timed.clock, busiest, made))
    barrier.wait()


def compare_ranks(rounds: int) -> list[Line]:
    """Two ranks against one: the measuring, and the whole command."""
    spawned = multiprocessing.get_context("spawn")
    barrier, found = spawned.Barrier(2), spawned.Queue()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [
        spawned.Process(target=measured_by_ranks, args=(index, port, rounds, barrier, found)) for index in range(2)
    ]
    for process in started:
        process.start()
    lines = [shown(found.get()) for _ in range(2 * len(MEASURES) * rounds)]
    for process in started:
        process.join()
    width, rows = COMPUTE_BOUND
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.py").write_text(NETWORK, encoding="utf-8")
        for _ in range(rounds):
            for command in MEASURES:
                for count in (1, 2):
                    words = [command, "--model", "net.py:build", "--batch", "net.py:rows", "--nproc", str(count)]
                    words += ["--optimizer", "adamw", "--lr", "1e-3"] if command == "sharpness" else []
                    words += ["--simulate", str(SIMULATED), "--tolerance", TOLERANCE] if command == "sharpness" else []
                    began = time.perf_counter()
                    subprocess.run(
                        [sys.executable, "-m", "fromage_cli", *words, "--json"],
                        check=True,
                        capture_output=True,
                        cwd=folder,
                        env=environment,
                    )
                    seconds = time.perf_counter() - began
                    sizes = parameters_of(width), rows, POINTS
                    lines.append(shown(Line("command", command, *sizes, count, seconds, 0.0, 0.0)))
    return lines


def cost(rounds: int) -> list[Line]:
    """A breakdown at growing parameters, rows and points; the least processor seconds of the rounds."""
    torch.set_num_threads(1)
    sizes = [("parameters", width, 256, POINTS) for width in WIDTHS]
    sizes += [("rows", 128, rows, POINTS) for rows in ROWS]
    sizes += [("points", 128, 128, count) for count in COUNTS]
    breakdown(problem_of(64, 64))
    lines = []
    for part, width, rows, points in sizes:
        runs = [timed_run(breakdown, problem_of(width, rows), points) for _ in range(rounds)]
        least, made = min(taken.processor for taken, _ in runs), runs[0][1]
        clock = min(taken.clock for taken, _ in runs)
        lines.append(shown(Line(part, "breakdown", parameters_of(width), rows, points, 1, clock, least, made)))
    return lines


def shown(line: Line) -> Line:
    """The line, which is printed too, for the person who waits."""
    print(line, flush=True)
    return line


def slope(xs: Iterable[float], ys: Iterable[float]) -> float:
    """The power of x as which y grows: the least-squares line through the logarithms."""
    xs, ys = [math.log(x) for x in xs], [math.log(y) for y in ys]
    return statistics.linear_regression(xs, ys).slope


def saved() -> list[Line]:
    """All lines of the file."""
    if not RESULTS.exists():
        return []
    kinds = {field.name: field.type for field in fields(Line)}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return [Line(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(file)]


def save(lines: Iterable[Line]) -> None:
    """Writes them in the place of those of the same parts."""
    lines = list(lines)
    kept = [line for line in saved() if line.part not in {line.part for line in lines}]
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Line)], lineterminator="\n")
        writer.writeheader()
        for line in (*kept, *lines):
            rounded = {name: f"{getattr(line, name):.5g}" for name in ("seconds", "processor", "gradients")}
            writer.writerow(asdict(line) | rounded)


def report(lines: list[Line]) -> None:
    """Prints the tables of docs/scaling.md."""
    print("| command | what is timed | one rank, s | two ranks, s | ratio, median | least, largest ratio |")
    print("|---|---|---|---|---|---|")
    for part, what, taken in (
        ("measuring", "the measuring, processor", "processor"),
        ("measuring", "the measuring, clock", "seconds"),
        ("command", "the whole command, clock", "seconds"),
    ):
        for command in MEASURES:
            one, two = (
                [getattr(each, taken) for each in lines if (each.part, each.command, each.ranks) == (part, command, n)]
                for n in (1, 2)
            )
            ratios = [alone / shared for alone, shared in zip(one, two, strict=True)]
            print(
                f"| `{command}` | {what} | {statistics.median(one):.2f} | {statistics.median(two):.2f} "
                f"| {statistics.median(ratios):.2f} | {min(ratios):.2f}, {max(ratios):.2f} |"
            )
    print("\n| what grows | from | to | seconds, from | to | power | power, upper decade | gradients, from | to |")
    print("|---|---|---|---|---|---|---|---|---|")
    for part in ("parameters", "rows", "points"):
        found = [line for line in lines if line.part == part]
        sizes, seconds = [getattr(line, part) for line in found], [line.processor for line in found]
        upper = [place for place, size in enumerate(sizes) if size >= sizes[-1] / 10.5]
        print(
            f"| {part} | {sizes[0]:,} | {sizes[-1]:,} | {seconds[0]:.3f} | {seconds[-1]:.2f} "
            f"| {slope(sizes, seconds):.2f} | {slope(sizes[upper[0] :], seconds[upper[0] :]):.2f} "
            f"| {found[0].gradients:.1f} | {found[-1].gradients:.1f} |"
        )


def draw(lines: list[Line], path: Path) -> None:
    """Seconds over parameters, rows and points, on logarithmic axes, beside a line of power 1."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from fromage_cli.terminal.pictures import BLUE, DASHED, STYLE

    with rc_context(STYLE | {"text.parse_math": True}):  # for the powers at the axes
        figure = Figure(figsize=(10.0, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, part in zip(figure.subplots(1, 3), ("parameters", "rows", "points"), strict=True):
            found = [line for line in lines if line.part == part]
            sizes, seconds = [getattr(line, part) for line in found], [line.processor for line in found]
            axes.loglog(sizes, seconds, "o-", color=BLUE, markersize=4, label=f"power {slope(sizes, seconds):.2f}")
            ends = [sizes[0], sizes[-1]]
            axes.loglog(
                ends,
                [seconds[-1] * size / sizes[-1] for size in ends],
                linestyle=DASHED,
                color="0.5",
                linewidth=0.9,
                label="power 1",
            )
            axes.set_xlabel({"points": "points of the curve", "rows": "rows of the batch"}.get(part, part))
            axes.set_ylabel("processor seconds")
            axes.legend()
        figure.savefig(path, dpi=100)


def main() -> None:
    """Measures, or shows what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("ranks", "cost", "report"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="file of the picture")
    asked = parser.parse_args()
    if asked.what == "report":
        lines = saved()
        report(lines)
        if asked.plot is not None:
            draw(lines, asked.plot)
    else:
        save(compare_ranks(asked.rounds) if asked.what == "ranks" else cost(asked.rounds))


if __name__ == "__main__":
    main()
