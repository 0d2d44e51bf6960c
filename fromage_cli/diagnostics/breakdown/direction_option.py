"""From `--direction` as typed to a Direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.optimizers.rule import ADAM, ADAMW, FROMAGE, RULES, SGD, listed
from fromage_cli.terminal.words import nearest

if TYPE_CHECKING:
    from fromage_cli.checkpoints import Checkpoint
    from fromage_cli.optimizers.settings import Given
    from fromage_cli.probes.lines.direction import Direction
    from fromage_cli.problem.evaluation.problem import Problem
    from fromage_cli.problem.networks.layers import TrainableTensor

RANDOM = "random"
NAMES = (FROMAGE.name, SGD.name, ADAM.name, RANDOM)
TO = "to:"
"""Before the name of another checkpoint."""
RELATIVE = (FROMAGE.name, RANDOM)
"""Directions that move the matrices alone unless told otherwise; along real updates everything trainable moves."""


def check_direction(name: str) -> None:
    """Raises UsageError for a direction that does not exist, and says of an optimizer what to follow in its place."""
    if name in NAMES or (name.startswith(TO) and len(name) > len(TO)):
        return
    if name == ADAMW.name:
        reason = f"There is no direction {name!r}."
        hint = "Choose adam: the step of AdamW too, but for its decoupled weight decay."
    elif name in RULES:
        followed = listed(rule for rule in RULES.values() if rule.name in NAMES)
        reason = f"There is no direction {name!r} yet: breakdown follows the steps of {followed} alone."
        hint = (
            f"Choose {TO}CKPT with the run's next checkpoint, or {FROMAGE.name}. "
            f"suggest-lr measures along the next step of {RULES[name].title} itself."
        )
    else:
        reason = f"There is no direction {name!r}."
        hint = f"{nearest(name, NAMES)}choose one of {', '.join(NAMES)}, or {TO}CKPT for another checkpoint."
    raise UsageError(reason, hint)


def moved_by_default(name: str) -> str:
    """What `--tensors` is where it is not given: `matrices` or `all`."""
    return "matrices" if name in RELATIVE else "all"


def decay_left_out(name: str, checkpoint: Checkpoint | None, declared: Given) -> float | None:
    """The largest weight decay of any group that is no part of the Adam step; None where there is none.

    Only decay that the state tells to be coupled to the gradient goes through the moments.
    """
    if name != ADAM.name:
        return None
    from fromage_cli.probes.optimizer_step.next_step import adam_settings

    optimizer = adam_settings(checkpoint.optimizer if checkpoint is not None else None, declared)
    return (optimizer.weight_decay or None) if optimizer.rule is not ADAM else None


def make_direction(
    name: str, problem: Problem, tensors: Sequence[TrainableTensor], checkpoint: Checkpoint | None, declared: Given
) -> Direction:
    """Makes the direction of that name through the problem's weights; `declared`: of the optimizer.

    Raises MismatchError when no tensor moves along it.
    """
    from dataclasses import replace

    from fromage_cli.checkpoints import open_checkpoint
    from fromage_cli.probes.lines import updates
    from fromage_cli.probes.lines.updates import displacement_to
    from fromage_cli.probes.optimizer_step.next_step import adam_update

    problem.evaluations.doing = f"the direction {name}"
    if name == FROMAGE.name:
        direction = updates.fromage_direction(problem, tensors)
    elif name == SGD.name:
        direction = updates.sgd_direction(problem, tensors)
    elif name == RANDOM:
        direction = updates.random_direction(problem, tensors, problem.seed)
    elif name == ADAM.name:
        update, notes = adam_update(problem, checkpoint.optimizer if checkpoint is not None else None, declared)
        direction = updates.adam_direction(problem, tensors, update, notes)
    else:
        displacement, notes = displacement_to(problem, open_checkpoint(name.removeprefix(TO)))
        direction = replace(updates.displacement_direction(problem, tensors, displacement, name), notes=notes)
    if not direction.moves:
        reasons = sorted({skipped.reason for skipped in direction.skipped})
        raise MismatchError(
            f"Along {name} none of the {len(tensors)} chosen tensors moves: {', '.join(reasons)}.",
            "Choose another --direction, --tensors all, or another checkpoint.",
        )
    return direction
