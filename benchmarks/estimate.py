"""Hold what `--estimate` tells against what a command then takes: `python benchmarks/estimate.py [WIDTH…]`.

Perceptrons of 16 weight matrices and these widths; 1130 makes 18 million parameters. Seconds are of one thread, by the
clock, and so those of an otherwise idle machine; gradients, and what takes as long, are counted and hold on any. Prints
a Markdown table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROWS, INPUTS, CLASSES, MATRICES = 64, 64, 10, 16
STEPS = 180
"""Minibatch gradients of the short runs."""
COMMANDS = {
    "breakdown": ("breakdown", "{last}", "--eta", "1e-4:1e-1:9"),
    "suggest-lr": ("suggest-lr", "{last}", "--optimizer", "adamw", "--lr", "1e-3", "--probe-budget", str(STEPS)),
    "sharpness": ("sharpness", "{last}", "--optimizer", "sgd", "--lr", "1e-2"),
    "norms": ("norms", "{first}", "{last}", "--model", "auto", "--optimizer", "sgd", "--lr", ".1"),
    "intrinsic-lr": (
        *("intrinsic-lr", "{first}", "{last}", "--model", "auto", "--optimizer", "sgd", "--lr", ".1"),
        *("--weight-decay", "1e-3", "--train-batch-size", "16"),
    ),
    "distance": ("distance", "{first}", "{last}", "--model", "auto"),
}


def write_run(folder: Path, width: int) -> int:
    """Write two checkpoints and their batch; the number of parameters."""
    torch.manual_seed(0)
    sizes = [INPUTS, *[width] * (MATRICES - 1), CLASSES]
    layers = [torch.nn.Linear(*pair) for pair in pairwise(sizes)]
    weights = {
        f"layers.{place}.{name}": tensor.data
        for place, layer in enumerate(layers)
        for name, tensor in layer.named_parameters()
    }
    for step in (0, 100):
        save_file(weights, folder / f"step-{step:06d}.safetensors", metadata={"step": str(step)})
        weights = {name: tensor + 0.01 * tensor.std() * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file({"x": torch.randn(ROWS, INPUTS), "y": torch.randint(CLASSES, (ROWS,))}, folder / "batch.safetensors")
    declared = 'activation = "relu"\nresidual = false\nloss = "cross-entropy"\nbatch = "batch.safetensors"\n'
    (folder / "fromage.toml").write_text(declared, encoding="utf-8")
    return sum(tensor.numel() for tensor in weights.values())


def run(words: tuple[str, ...], folder: Path) -> tuple[dict[str, Any], float]:
    """A command's JSON, and the seconds that it took."""
    places = {"first": folder / "step-000000.safetensors", "last": folder / "step-000100.safetensors"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "fromage_cli", *(word.format(**places) for word in words), "--json"],
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    return json.loads(done.stdout), time.monotonic() - started


def counted(tool: dict[str, Any]) -> float:
    """What was computed, in gradients: a forward pass is a third of one, a Hessian-vector product 7/3."""
    gradients, forwards = tool["gradient_evaluations"] or 0.0, tool["forward_evaluations"] or 0.0
    return float(gradients + forwards / 3.0 + 7.0 / 3.0 * (tool["hvp_evaluations"] or 0.0))


def main() -> None:
    """Print a row for each command and width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("widths", nargs="*", type=int, default=[64, 256, 1130])
    parser.add_argument("--command", choices=COMMANDS, action="append")
    options = parser.parse_args()
    print("| command | parameters | told, s | took, s | told ÷ took | gradients told | computed |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for width in options.widths:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            parameters = write_run(folder, width)
            for name in options.command or COMMANDS:
                told = run((*COMMANDS[name], "--estimate"), folder)[0]["result"]["estimate"]
                answer, took = run(COMMANDS[name], folder)
                cells = (
                    *(f"`{name}`", f"{parameters:.3g}", f"{told['seconds']:.3g}", f"{took:.3g}"),
                    *(f"{told['seconds'] / took:.2f}", f"{told['gradients']:.3g}", f"{counted(answer['tool']):.3g}"),
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
