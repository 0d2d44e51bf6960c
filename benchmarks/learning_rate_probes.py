"""What `suggest-lr` sees of a pair of the learning-rate study: short runs from new weights, or from a checkpoint."""

from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from learning_rate_pairs import Pair

from fromage_cli.checkpoints import OptimizerState
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.missing import found_of
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.optimizers.typical_rates import typical_rate
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.probes.trial_runs.short_runs import Course, make_runs
from fromage_cli.probes.trial_runs.training import BATCHES as PIECES
from fromage_cli.probes.trial_runs.training import training_rows
from fromage_cli.problem.data.batches import Batch, as_batch, numbered
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.loss_terms import LossTerms

BATCHES = {"batches": 5, "cut": 1, "longer": 10, "longer on five": 5}
"""Training batches that the user gives; the last fifth is kept apart, and one alone is cut into five."""
FIRST_SEED = 20
"""Of the networks; no run of the grid has it or the next."""
BUDGETS = {"batches": 400, "cut": 400, "longer": 744, "longer on five": 744}
"""Minibatch gradients; those of the longer ones were spent on some pairs only."""


class PairLoss:
    """The loss of a pair as a Problem takes it."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.name = pair, "its own"

    def __call__(self, model: torch.nn.Module, batch: Batch) -> LossTerms:
        """The mean loss, times the number of rows."""
        inputs, targets = batch.data
        return LossTerms(self.pair.loss(model(inputs), targets) * batch.size, batch.size)


def optimizer_of(pair: Pair) -> Optimizer:
    """The pair's optimizer as the program knows it."""
    rule = {"momentum": "sgd"}.get(pair.optimizer, pair.optimizer)
    momentum = 0.9 if pair.optimizer == "momentum" else 0.0
    return find_settings(
        Given(name=rule, momentum=momentum, weight_decay=0.01 if rule == "adamw" else 0.0), None, Given()
    )


def problem_of(pair: Pair, seed: int, folder: Path, count: int) -> Problem:
    """The pair as someone with a loader of training batches puts it."""
    stream = pair.batches(folder, 77)
    first, *rest = numbered([as_batch(rows, "training rows") for rows in islice(stream, count)])
    return Problem(pair.begin(seed, folder)[0], PairLoss(pair), first, spare=tuple(rest))


def saved_state(pair: Pair, folder: Path) -> OptimizerState | None:
    """What the optimizer remembers of the steps that were made before."""
    if not pair.made:
        return None
    saved = pair.begin(0, folder)[1].state_dict()
    (group,) = saved["param_groups"]
    settings = {name: value for name, value in group.items() if name != "params"}
    return OptimizerState((ParameterGroup(settings, tuple(group["params"])),), saved["state"])


def short_runs(pair: Pair, variant: str, folder: Path) -> dict[str, object]:
    """Every short run with its loss, and the root mean square of the first weights' matrices."""
    optimizer = optimizer_of(pair)
    count = BATCHES[variant]
    problem = problem_of(pair, FIRST_SEED, folder, count)
    rows = training_rows(problem, max(problem.batch.size // PIECES, 1) if variant == "cut" else None)
    typical, _ = typical_rate(optimizer)
    guess = pair.guess if pair.made else float(typical)  # of a checkpoint the rate in use is known
    state = saved_state(pair, folder)

    def start(seed: int) -> MatchedState:
        return match_state(problem_of(pair, FIRST_SEED + seed, folder, count), optimizer, state)

    course = Course(pair.rates, float(pair.made))
    made, _ = found_of(make_runs(start, rows, course, guess=guess, budget=BUDGETS[variant]))
    matrices = [tensor.parameter.detach() for tensor in problem.trainable if tensor.parameter.ndim > 1]
    squares = sum(float(matrix.double().square().sum()) for matrix in matrices)
    rms = (squares / sum(matrix.numel() for matrix in matrices)) ** 0.5
    return {"rms": rms, "typical": typical, "gradients": made.gradients, "start_losses": made.start_losses} | {
        "runs": [list(asdict(run).values()) for run in made.runs]
    }
