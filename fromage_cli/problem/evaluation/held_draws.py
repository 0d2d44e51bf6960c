"""A problem on parts of its rows, each with its random numbers of the whole batch."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.draws import RecordedDraws, ShareOfDraws
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem


def on_parts(problem: Problem, parts: Sequence[Batch]) -> list[Problem]:
    """The problem on each part; what is random is held for each row where it can be told for rows.

    Else each part draws numbers of its own, as it may where rows were guessed; `problem.draws_apart` says so. To be
    called at the weights of the base; costs a forward pass of all rows and a gradient of one part where random numbers
    matter, else nothing.
    """
    alone = [problem.on(part) for part in parts]
    problem.draws_apart = problem.draws_noise
    seen = problem.micro_batch is None and not problem.ranks.several and not problem.conditions.drew_elsewhere
    if problem.draws_noise and seen:
        with suppress(MismatchError):  # it cannot be evaluated so
            problem.draws_apart = not _held(problem, alone)
    return alone


def _held(problem: Problem, alone: Sequence[Problem]) -> bool:
    """Lets each of them draw its share of what the whole batches draw, if the first of them can; whether it does."""
    recorded, shares = {}, []
    for batch in problem.batches:
        recording, whole = RecordedDraws(), problem.on(batch)
        whole.held = recording.itself
        whole.value()
        problem.evaluations.add(whole.evaluations, batch.size / problem.rows)
        recorded[batch.first] = batch.size, recording.draws
    for each in alone:
        part = each.batch
        first = max(first for first in recorded if first <= part.first)
        size, draws = recorded[first]
        shares.append((draws, size, part.first - first, part.first - first + part.size))
    share, trial = ShareOfDraws(*shares[0]), problem.on(alone[0].batch)
    trial.held = share.itself
    trial.visit_gradient(lambda *_: None)
    problem.evaluations.add(trial.evaluations, trial.rows / problem.rows)
    for each, its in zip(alone, shares, strict=True):
        each.held = partial(ShareOfDraws, *its) if share.complete else None
    return share.complete and not share.guessed
