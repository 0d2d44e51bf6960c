"""Which rows training steps are taken on, and which are kept apart for the losses."""

from dataclasses import dataclass

from fromage_cli.errors import UsageError
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem

DEFAULT_ROWS = 64
"""Rows of a minibatch where nobody says how many."""


@dataclass(frozen=True)
class TrainingRows:
    """Minibatches to train on, and rows that no step sees."""

    batches: tuple[Batch, ...]
    independent: tuple[Batch, ...]
    source: str
    """Where both come from, for people."""


def training_rows(problem: Problem, size: int | None = None) -> TrainingRows:
    """Cuts the problem's rows into minibatches, the last fifth kept apart.

    Several batches are taken as they are, spare ones with them; a single one is cut into chunks of `size` rows, by
    default `DEFAULT_ROWS` or as many as leave four. Raises UsageError below two rows.
    """
    several = (*problem.batches, *problem.spare)
    if len(several) > 1:
        kept = max(1, len(several) // 5)
        batches, independent = several[:-kept], several[-kept:]
        rows = sum(batch.size for batch in independent)
        others = f"{kept} further batches" if kept > 1 else "another"
        source = f"{_counted(len(batches), 'batch', 'batches')}; losses on {_counted(rows, 'row')} of {others}"
        return TrainingRows(batches, independent, source)
    batch = problem.batch
    kept = max(1, batch.size // 5)
    rows = batch.size - kept
    if rows < 1:
        raise UsageError("Training steps and a loss on other rows need two rows; the batch has one.", "Give more.")
    size = min(size or DEFAULT_ROWS, max(1, rows // 4) if size is None else rows)
    chunks = tuple(batch.rows(start, start + size) for start in range(0, rows - size + 1, size))
    cut = f"{_counted(len(chunks), 'chunk')} of {_counted(size, 'row')} of one batch"
    return TrainingRows(chunks, (batch.rows(rows, batch.size),), f"{cut}; losses on its other {_counted(kept, 'row')}")


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"
