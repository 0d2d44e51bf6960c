"""What the derivative through further steps costs, in plain steps of the same run.

    python benchmarks/hypergrad_cost.py

Each network takes its steps plainly, then forwards and backwards with all states held, then with those of the square
root of the steps; all three in turn, and the fastest of each counts. Seconds are of one thread, by the processor's
clock, so that other work on the machine adds little. Prints a Markdown table of ratios from one run.
"""

import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from fromage_cli.optimizers.settings import Given, find_settings
from fromage_cli.probes.hypergradients.hyperparameters import values_of
from fromage_cli.probes.hypergradients.training_steps import TrainingSteps
from fromage_cli.probes.hypergradients.unrolled import segment_length, unroll
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.data.batches import as_batch, numbered
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import CrossEntropy

sys.path.insert(0, str(Path(__file__).parents[1] / "sample_checkpoints"))
from models import char_gpt, convnet  # in the samples' folder

STEPS, ROWS, ROUNDS = 16, 64, 4


def perceptron(width: int) -> nn.Module:
    """Eight weight matrices with GELU between them."""
    sizes = [64, *[width] * 7, 10]
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.GELU())]
    return nn.Sequential(*layers[:-1])


def seconds(run: Callable[[], object]) -> float:
    """Of the processor."""
    started = time.process_time()
    run()
    return time.process_time() - started


def row(name: str, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, optimizer: str) -> str:
    """One network's ratios."""
    batches = numbered([as_batch((inputs, targets), "drawn") for _ in range(STEPS)])
    problem = Problem(model, CrossEntropy(), batches[0], mode="train")
    held_out = as_batch((inputs[:8], targets[:8]), "drawn")
    rows = Validation(Problem(model, CrossEntropy(), held_out, mode="eval"), validation_parts([held_out]))
    matched = MatchedState(problem, find_settings(Given(optimizer, 1e-3, weight_decay=0.1), None, Given()))
    values = values_of(matched, 1e-3, {"label-smoothing": 0.1}, [tensor.name for tensor in problem.receiving])
    steps = TrainingSteps(matched, batches, values)

    def plainly() -> None:
        with steps.from_checkpoint() as start:
            steps.run(start, values)

    def every() -> None:
        unroll(steps, rows, values)

    def root() -> None:
        unroll(steps, rows, values, copies=2 * segment_length(STEPS))

    rounds = [[seconds(run) for run in (plainly, every, root)] for _ in range(ROUNDS)]
    plain, with_all, with_root = (min(each) for each in zip(*rounds, strict=True))
    count = sum(tensor.parameter.numel() for tensor in problem.trainable)
    return f"| {name} | {count:,} | {optimizer} | {with_all / plain:.2f} | {with_root / plain:.2f} |"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | parameters | optimizer | all states | square root of them |")
    print("|---|---|---|---|---|")
    images, labels = torch.randn(ROWS, 64), torch.randint(10, (ROWS,))
    for width in (64, 512, 1024):
        print(row(f"perceptron, width {width}", perceptron(width), images, labels, "adamw"), flush=True)
    print(row("perceptron, width 512", perceptron(512), images, labels, "sgd"), flush=True)
    print(row("convnet", convnet(), images.view(-1, 1, 8, 8), labels, "sgd"), flush=True)
    text = torch.randint(61, (32, 64)), torch.randint(61, (32, 64))
    print(row("char-gpt", char_gpt(), *text, "adamw"), flush=True)
    print(row("char-gpt, width 256", char_gpt(width=256, hidden=768), *text, "adamw"), flush=True)


if __name__ == "__main__":
    main()
