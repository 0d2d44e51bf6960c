"""Where the numbers of a diagnosis go besides the log: TensorBoard and MLflow. A failure there is told, not fatal."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fromage_cli.errors import InputError, words_of
from fromage_cli.terminal.words import visible
from fromage_cli.watching.log import verdict_in

VERDICTS = ("go", "look", "stop")
"""Drawn as 0, 1 and 2."""
TAG = "fromage-diag.log"
"""What says of a run in MLflow which log it belongs to: a hash of its path."""

Sink = Callable[[int, float, Mapping[str, float]], None]
"""Takes a step, the time in seconds since 1970, and numbers by name."""


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the verdict as 0, 1 or 2, and the single numbers of each command: `sharpness/ratio`, `inspect/totals/…`.

    Nothing where the checkpoint could not be judged.
    """
    verdict = verdict_in(record)
    if verdict is None:
        return {}
    return {"verdict": float(VERDICTS.index(verdict)), **dict(_numbers(record["result"]["results"], ""))}


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def send(sink: Sink, record: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Hand a diagnosis to a sink; one without a known step counts as step 0."""
    numbers = scalars(record)
    seconds = datetime.fromisoformat(record["watched_at"]).timestamp()
    try:
        if numbers:
            sink(record["step"] or 0, seconds, numbers)
    except Exception as error:  # of a library, a network or a disk, whatever its kind
        say(f"note: the numbers could not be sent: {type(error).__name__}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """The first line of a library's own words."""
    return visible(words_of(error).strip()).split(r"\n")[0][:300]


def tensorboard_sink(directory: Path) -> Sink:
    """Return what writes into a directory that TensorBoard reads; raises InputError where the library is missing."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise _missing("--tensorboard", "tensorboard") from error
    writer = EventFileWriter(str(directory))

    def write(step: int, seconds: float, numbers: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=f"fromage-diag/{name}", simple_value=value) for name, value in numbers.items()]
        writer.add_event(Event(wall_time=seconds, step=step, summary=Summary(value=values)))
        writer.flush()

    return write


def mlflow_sink(uri: str, log: Path) -> Sink:
    """Return what writes into a run at an MLflow server or store: that of MLFLOW_RUN_ID, else one for each log.

    Raises InputError where the library is missing or the server cannot be asked.
    """
    try:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise _missing("--mlflow", "mlflow") from error
    try:
        client = MlflowClient(tracking_uri=uri)
        run = os.environ.get("MLFLOW_RUN_ID") or _run_of(client, log)
    except Exception as error:  # of the library, the server or the network, whatever its kind
        reason = visible(words_of(error).strip()).split(r"\n")[0][:300]
        raise InputError(
            f"--mlflow {visible(uri)}: {reason}", hint="Correct the URI, or leave --mlflow out."
        ) from error

    def write(step: int, seconds: float, numbers: Mapping[str, float]) -> None:
        when = int(1000 * seconds)
        metrics = [Metric(f"fromage-diag/{name}", value, when, step) for name, value in numbers.items()]
        client.log_batch(run, metrics=metrics)

    return write


def _run_of(client: Any, log: Path) -> str:
    """The run that a log has in the experiment of MLFLOW_EXPERIMENT_NAME, or in the default one; made if need be."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment is not None else client.create_experiment(name)
    text = str(log.absolute())
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]  # a path may hold what a filter cannot
    found = client.search_runs([place], filter_string=f"tags.`{TAG}` = '{mark}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    start = int(1000 * time.time())
    made = client.create_run(
        place, start_time=start, tags={TAG: mark, "log": text}, run_name=f"watch {log.name}"
    ).info.run_id
    client.set_terminated(made)  # it takes numbers all the same, and a watch that is killed leaves nothing running
    return str(made)


def _missing(flag: str, extra: str) -> InputError:
    return InputError(f"{flag} needs the extra: {extra}.", f"Install it: python -m pip install 'fromage-diag[{extra}]'")
