"""The logs that trainers wrote beside a checkpoint, as plain numbers."""

import os

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.runs.trainer_logs import read_trainer_logs
from fromage_cli.diagnostics.inspect.result import LogResult
from fromage_cli.missing import Missing, Why

NOT_LOGGED = Missing(Why.NOT_LOGGED, "the log does not have it")


def describe_logs(checkpoint: Checkpoint) -> tuple[tuple[LogResult, ...], tuple[str, ...]]:
    """Describes the last numbers of every log, and says what could not be read."""
    weights = checkpoint.weights or checkpoint.path
    logs, notes = read_trainer_logs(weights, checkpoint.step)
    described = tuple(
        LogResult(
            file=os.path.relpath(log.path, weights.absolute().parent),
            records=log.records,
            step=NOT_LOGGED if log.step is None else log.step,
            loss=NOT_LOGGED if log.loss is None else log.loss,
            learning_rate=NOT_LOGGED if log.learning_rate is None else log.learning_rate,
            not_finite=log.not_finite,
        )
        for log in logs
    )
    return described, tuple(notes)
