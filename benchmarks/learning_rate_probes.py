"""What is measured at every checkpoint of the learning-rate study: short runs over a wide grid, and local estimates."""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from learning_rate_networks import Task
from learning_rate_training import CHECKPOINT_STEPS, LIMITS, START, batches
from torch import Tensor, nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.errors import FromageError
from fromage_cli.probes.critical import critical_rate
from fromage_cli.probes.next_step import next_step
from fromage_cli.probes.optimizer import Given, Optimizer, optimizer_of
from fromage_cli.probes.training import training
from fromage_cli.problem.batches import Batch, as_batch
from fromage_cli.problem.beside import Declared
from fromage_cli.problem.loss_terms import LossTerms
from fromage_cli.problem.problem import Problem

MINIBATCHES = 20
"""Minibatches that a problem is made of; the last fifth is kept apart."""
PROBE_STEPS = 40
SEEN_AT = (5, 10, 15, 20, 30, 40)
BELOW, ABOVE = 7, 2
"""Octaves of the grid around the first increase."""
WITHIN = 3
"""Octaves around the start that the grid always covers."""


class TaskLoss:
    """The loss of a task as a Problem takes it."""

    def __init__(self, task: Task) -> None:
        self.task, self.name = task, "squared error" if task.squared else "cross-entropy"

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The mean loss, times the number of rows."""
        inputs, targets = batch.data
        return LossTerms(self.task.loss(model(inputs), targets) * batch.size, batch.size)


def problem_of(task: Task, model: nn.Module, data: Path | None, seed: int = 77) -> Problem:
    """The task as someone with a loader of training batches puts it."""
    stream = batches(task.rows(data)[0], task.batch_size, seed)
    first, *further = (as_batch(pair, "training rows") for pair in islice(stream, MINIBATCHES))
    return Problem(model, TaskLoss(task), first, further=tuple(further))


def optimizer_named(name: str, state: OptimizerState | None) -> Optimizer:
    """The study's optimizer as the program knows it."""
    rule = {"momentum": "sgd"}.get(name, name)
    momentum = 0.9 if name == "momentum" else 0.0
    return optimizer_of(
        Given(name=rule, momentum=momentum, weight_decay=0.01 if rule == "adamw" else 0.0), state, Declared()
    )


def loaded(task: Task, optimizer: str, step: int, results: Path) -> tuple[nn.Module, OptimizerState | None]:
    """The network and the optimizer's state at a checkpoint of the untuned run."""
    checkpoint = open_checkpoint(results / "checkpoints" / task.name / optimizer / f"step-{step:04d}.pt")
    saved = torch.load(checkpoint.path, weights_only=True)
    model = task.model(0)
    model.load_state_dict(saved["model"])
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if not finite:
        raise FromageError("The run has left the numbers.")
    return model, checkpoint.optimizer if step else None


def first_increase(problem: Problem, optimizer: Optimizer, state: OptimizerState | None, start: float) -> float | None:
    """The smallest rate along the next step that raises the loss of the rows kept apart; None where none lowers it."""
    step, _ = next_step(problem, optimizer, state)
    with suppress(FromageError):
        return critical_rate(problem, step, start)
    return None


def short_runs(
    problem: Problem, optimizer: Optimizer, state: OptimizerState | None, rates: list[float]
) -> Iterator[dict[str, object]]:
    """For each rate the losses of the rows kept apart after some steps, and those of the minibatches."""
    kept = MINIBATCHES // 5
    parts, independent = problem.batches[:-kept], problem.batches[-kept:]
    with training(problem, optimizer, state) as run:
        for rate in rates:
            run.start(rate)
            seen: list[float] = []
            losses: list[float] = []
            for step in range(1, PROBE_STEPS + 1):
                losses.append(run.step(parts[(step - 1) % len(parts)]))
                if not math.isfinite(losses[-1]):
                    break
                if step in SEEN_AT:
                    seen.append(run.loss(independent))
            yield {"rate": rate, "losses": losses, "seen": seen}


def raw_probe(task: Task, optimizer_name: str, step: int, results: Path, data: Path | None) -> dict[str, object] | None:
    """Everything about short runs from one checkpoint."""
    try:
        model, state = loaded(task, optimizer_name, step, results)
        problem = problem_of(task, model, data)
        optimizer = optimizer_named(optimizer_name, state)
        start = START[optimizer_name]
        increase = first_increase(problem, optimizer, state, start)
    except FromageError as error:
        return {"error": error.message}
    centre = round(math.log2((increase or start) / start))
    centre = min(max(centre, -6), 8)
    octaves = range(max(LIMITS[0], min(centre - BELOW, -WITHIN)), min(max(centre + ABOVE, WITHIN), LIMITS[1]) + 1)
    independent = problem.on(*problem.batches[-(MINIBATCHES // 5) :])
    return {
        "increase": increase,
        "start_loss": independent.value(),
        "octaves": list(octaves),
        "runs": list(short_runs(problem, optimizer, state, [start * 2.0**k for k in octaves])),
    }
