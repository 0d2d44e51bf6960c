"""What is measured at every checkpoint of the learning-rate study: short runs over a wide grid, and local estimates."""

from itertools import islice
from pathlib import Path

import torch
from learning_rate_networks import Task
from learning_rate_training import batches
from torch import nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.errors import FromageError
from fromage_cli.missing import found_of, known
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.optimizer_step.matched_state import match_state
from fromage_cli.probes.trial_runs.rate_probe import measure_rate
from fromage_cli.problem.data.batches import Batch, as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms

MINIBATCHES = 20
"""Minibatches that a problem is made of; the last fifth is kept apart."""
LOCAL_MINIBATCHES = 8
"""The same for estimates without training, which take all rows at once."""
FRESH_SEED = 20
"""Of the networks that are made again; no run of the study has it."""


class TaskLoss:
    """The loss of a task as a Problem takes it."""

    def __init__(self, task: Task) -> None:
        self.task, self.name = task, "squared error" if task.squared else "cross-entropy"

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        """The mean loss, times the number of rows."""
        inputs, targets = batch.data
        return LossTerms(self.task.loss(model(inputs), targets) * batch.size, batch.size)


def problem_of(task: Task, model: nn.Module, data: Path | None, count: int = MINIBATCHES) -> Problem:
    """The task as someone with a loader of training batches puts it."""
    stream = batches(task.rows(data)[0], task.batch_size, seed=77)
    first, *further = (as_batch(pair, "training rows") for pair in islice(stream, count))
    return Problem(model, TaskLoss(task), first, further=tuple(further))


def optimizer_named(name: str, state: OptimizerState | None) -> Optimizer:
    """The study's optimizer as the program knows it."""
    rule = {"momentum": "sgd"}.get(name, name)
    momentum = 0.9 if name == "momentum" else 0.0
    given = Given(name=rule, momentum=momentum, weight_decay=0.01 if rule == "adamw" else 0.0)
    return find_settings(given, state.settings if state is not None else None, Given())


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


def short_runs(
    task: Task, optimizer_name: str, step: int | None, results: Path, data: Path | None
) -> dict[str, object]:
    """What `measure_rate` finds at a checkpoint of the untuned run, or from a new initialisation (None)."""
    try:
        if step is None:
            model, state = task.model(FRESH_SEED), None
        else:
            model, state = loaded(task, optimizer_name, step, results)
        problem = problem_of(task, model, data)
        optimizer = optimizer_named(optimizer_name, state)
        matched = match_state(problem, optimizer, state)
        found, _ = found_of(measure_rate(matched, fresh=problem if step is None else None))
    except FromageError as error:
        return {"error": error.message}
    taken = problem.evaluations
    beside = taken.gradients - found.gradient_evaluations / MINIBATCHES + taken.forwards / 3.0
    kept = ("centre", "spread", "gain", "bracketed", "rates", "losses", "start_loss", "gradient_evaluations")
    return {name: getattr(found, name) for name in kept} | {"full_batch_gradients": round(beside, 3)}


def local_estimates(task: Task, optimizer_name: str, step: int, results: Path, data: Path | None) -> dict[str, object]:
    """The learning rates that `suggest-lr` derives at a checkpoint without training, by the estimates' names."""
    try:
        model, state = loaded(task, optimizer_name, step, results)
        problem = problem_of(task, model, data, LOCAL_MINIBATCHES)
        optimizer = optimizer_named(optimizer_name, state)
        measured = measure(problem, problem.receiving, optimizer, state, request=Request(sharpness=True))
    except FromageError as error:
        return {"error": error.message}
    estimates = found_of(measured)[0].estimates
    return {
        "estimates": {estimate.name: known(estimate.learning_rate) for estimate in estimates},
        "costs": {estimate.name: round(estimate.gradient_evaluations, 2) for estimate in estimates},
    }
