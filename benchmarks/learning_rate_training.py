"""Training runs of the learning-rate study: one run, the search over rates, and the checkpoints of untuned runs."""

import json
import math
import random
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from learning_rate_networks import Rows, Task
from torch import nn

from fromage_cli.optim import Fromage

STEPS = 200
SEEDS = (0, 1, 2)
CHECKPOINT_STEPS = (0, 10, 20, 50, 100, 200)
START = {"fromage": 0.026, "sgd": 0.4, "momentum": 0.067, "adamw": 0.0044}
"""Where the search over rates begins, and the middle of nothing: untuned runs draw theirs from a wide band around."""
COARSE = (-6, -3, 0, 3)
"""First rates tried, in octaves from the start."""
LIMITS = (-14, 12)


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The optimizer as torch users build it; AdamW with torch's own decay of .01."""
    if name == "fromage":
        return Fromage(parameters, lr=rate)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9 if name == "momentum" else 0.0)


def batches(rows: Rows, size: int, seed: int) -> Iterable[Rows]:
    """Minibatches without end: each epoch in a new order, an incomplete last one left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows[0]), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield rows[0][chosen], rows[1][chosen]


@dataclass
class Run:
    """The losses of one training run; infinite from the step on at which it left the numbers."""

    initial: float
    half: float
    """Held out, mean over the last tenth of the first half of the steps."""
    final: float
    """Held out, mean over the last tenth of the steps."""
    train: float
    """Minibatch losses, mean over the last tenth of the steps."""


def held_out_loss(task: Task, model: nn.Module, rows: Rows) -> float:
    """The loss of held-out rows in evaluation behaviour."""
    model.eval()
    with torch.no_grad():
        loss = float(task.loss(model(rows[0]), rows[1]))
    model.train()
    return loss if math.isfinite(loss) else math.inf


def train(
    task: Task,
    optimizer_name: str,
    rate: float,
    seed: int,
    folder: Path | None,
    *,
    save: Path | None = None,
    steps: int = STEPS,
) -> Run:
    """One run at a constant rate; with `save`, its checkpoints and optimizer states are written there."""
    training_rows, held_out = task.rows(folder)
    model = task.model(seed)
    optimizer = make_optimizer(optimizer_name, model.parameters(), rate)
    initial = held_out_loss(task, model, held_out)
    half: list[float] = []
    final: list[float] = []
    losses: list[float] = []
    stream = iter(batches(training_rows, task.batch_size, 1000 + seed))
    _save(save, model, optimizer, 0)
    for step in range(1, steps + 1):
        inputs, targets = next(stream)
        loss = task.loss(model(inputs), targets)
        losses.append(loss.item())
        if not losses[-1] < 1e3 * max(initial, losses[0]):
            return Run(initial, math.inf, math.inf, math.inf)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _save(save, model, optimizer, step)
        for seen, end in ((half, steps // 2), (final, steps)):
            if 0 <= end - step < steps // 10 and (end - step) % max(1, steps // 40) == 0:
                seen.append(held_out_loss(task, model, held_out))
    tail = losses[-max(1, steps // 10) :]
    return Run(initial, sum(half) / len(half), sum(final) / len(final), sum(tail) / len(tail))


def _save(folder: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    if folder is not None and step in CHECKPOINT_STEPS:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, folder / f"step-{step:04d}.pt")


class Results:
    """Lines of JSON in a file, one per finished piece of work, looked up by their key."""

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path, self.names = path, key
        self.found: dict[tuple[object, ...], dict[str, object]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._remember(json.loads(line))

    def _remember(self, entry: dict[str, object]) -> None:
        self.found[tuple(entry[name] for name in self.names)] = entry

    def add(self, entry: dict[str, object]) -> dict[str, object]:
        """Keeps an entry, in the file at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._remember(entry)
        return entry


@dataclass
class Search:
    """The search for the best rate of one network under one optimizer: factors of two, three seeds."""

    task: Task
    optimizer: str
    results: Results
    folder: Path | None
    seeds: tuple[int, ...] = SEEDS
    steps: int = STEPS

    def loss(self, octave: int, seed: int) -> float:
        """The final held-out loss at a rate, run once."""
        key = (self.task.name, self.optimizer, octave, seed)
        entry = self.results.found.get(key)
        if entry is None:
            started = time.process_time()
            rate = START[self.optimizer] * 2.0**octave
            run = train(self.task, self.optimizer, rate, seed, self.folder, steps=self.steps)
            seconds = round(time.process_time() - started, 2)
            entry = self.results.add(
                {"task": self.task.name, "optimizer": self.optimizer, "octave": octave, "seed": seed, "rate": rate}
                | run.__dict__
                | {"seconds": seconds}
            )
        return float(entry["final"])

    def run(self) -> int:
        """The best octave on the grid, with two neighbours on each side run under every seed."""
        tried = {octave: self.loss(octave, self.seeds[0]) for octave in COARSE}
        while min(tried, key=tried.get) == min(tried) and min(tried) > LIMITS[0]:
            tried[min(tried) - 3] = self.loss(min(tried) - 3, self.seeds[0])
        while min(tried, key=tried.get) == max(tried) and max(tried) < LIMITS[1]:
            tried[max(tried) + 3] = self.loss(max(tried) + 3, self.seeds[0])
        best = self._climb(tried)
        means: dict[int, float] = {}
        while True:
            for octave in range(best - 2, best + 3):
                means[octave] = sum(self.loss(octave, seed) for seed in self.seeds) / len(self.seeds)
            following = min(means, key=means.get)
            if following == best or not LIMITS[0] < following < LIMITS[1]:
                return best
            best = following

    def _climb(self, tried: dict[int, float]) -> int:
        """The best octave under the first seed, both neighbours tried."""
        while True:
            best = min(tried, key=tried.get)
            missing = [octave for octave in (best - 1, best + 1) if octave not in tried]
            if not missing or not math.isfinite(tried[best]):
                return best
            tried |= {octave: self.loss(octave, self.seeds[0]) for octave in missing}


def untuned_run(task: Task, optimizer: str, directory: Path, data: Path | None) -> None:
    """Writes the checkpoints of one run whose rate was drawn at random between 1/16 and 4 times the start.

    A run that ends above its initial loss is thrown away and drawn again from a band four times lower.
    """
    place = directory / "checkpoints" / task.name / optimizer
    if (place / "run.json").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    draw = random.Random(zlib.crc32(f"{task.name} {optimizer}".encode()))
    centre = START[optimizer]
    for attempt in range(8):
        rate = centre * 2.0 ** draw.uniform(-4.0, 2.0)
        run = train(task, optimizer, rate, 10, data, save=place)
        if run.train < 0.98 * run.initial or attempt == 7:
            break
        centre /= 4.0
    (place / "run.json").write_text(json.dumps({"rate": rate, "attempts": attempt + 1} | run.__dict__))
