"""What trainers write beside checkpoints about loss, step and rate, read as data: JSON, JSON lines and CSV.

trainer_state.json (Hugging Face) holds {"log_history": [{"step", "loss", "learning_rate", …}, …]}; metrics.csv
(Lightning) and other tables have a header; .jsonl files one object a line. A file is read up to LIMIT bytes.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fromage_cli.checkpoints.optimizers.hugging_face import TRAINER
from fromage_cli.checkpoints.runs.steps import STEP_NAMES, order_in_name
from fromage_cli.checkpoints.storage.files import names_in, opened, quoted
from fromage_cli.errors import InputError

LIMIT = 100_000_000
"""Bytes; larger files are left alone."""
FILES = 8
"""Logs that are read at most."""
LOSSES = ("loss", "train_loss", "training_loss", "loss_train", "train_loss_step", "train_loss_epoch", "lm_loss")
RATES = ("learning_rate", "lr", "train_lr", "train_learning_rate")
STEPS = (*STEP_NAMES, "_step", "trainer_global_step", "train_global_step")
_LOG_NAME = re.compile(r"(^|[-_.])(logs?|metrics|history|progress|train(ing)?|stats|scalars|results)([-_.]|$)", re.I)
_AROUND = re.compile(r"checkpoints?$|ckpts?$|weights$|snapshots?$", re.I)

Record = Mapping[str, float]
"""Numbers by name; what is no number is left out."""


@dataclass(frozen=True)
class TrainerLog:
    """The last numbers of one log."""

    path: Path
    records: int
    """Lines or entries."""
    step: int | None
    """The step of the last record that counts: none after the checkpoint's own step, where both are known."""
    loss: float | None
    """The last training loss up to there; not finite where that is what was written."""
    learning_rate: float | None
    not_finite: int
    """Records whose loss is not finite."""


def read_trainer_logs(weights: Path, step: int | None) -> tuple[tuple[TrainerLog, ...], tuple[str, ...]]:
    """The logs beside a weights file, up to a step where one is known, and notes on those that could not be read.

    Looked at are its directory, and the one above where that only gathers the checkpoints of a run.
    """
    logs, notes = [], []
    found = [path for folder in _folders(weights) for path in sorted(_logs_in(folder))]
    for path in found[:FILES]:
        try:
            records = _records(path)
        except InputError as error:
            notes.append(f"Left out the log {quoted(path)}: {error.message}")
            continue
        if any(_value(record, LOSSES) is not None or _value(record, RATES) is not None for record in records):
            logs.append(_last(path, records, step))
    if len(found) > FILES:
        notes.append(f"Read {FILES} of {len(found)} logs beside the weights.")
    return tuple(logs), tuple(notes)


def _folders(weights: Path) -> list[Path]:
    """The directory of the weights, then those above it as long as a name says that it holds steps of a run."""
    folder = weights.absolute().parent
    folders = [folder]
    while (order_in_name(folder.name) or _AROUND.search(folder.name)) and len(folders) < 3:
        folder = folder.parent
        folders.append(folder)
    return folders


def _logs_in(folder: Path) -> list[Path]:
    try:
        paths = [folder / name for name in names_in(folder) if not name.startswith(".")]
    except InputError:  # a directory above that may not be read
        return []
    return [path for path in paths if _is_log(path) and path.is_file()]


def _is_log(path: Path) -> bool:
    named = bool(_LOG_NAME.search(path.stem))
    return path.name == TRAINER or (path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson") and named)


def _records(path: Path) -> list[Record]:
    """The entries of a log, first to last. Raises InputError."""
    with opened(path) as file:
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise InputError(f"it is larger than {LIMIT} bytes.")
    read: Callable[[str], Iterable[object]] = {".json": _history, ".csv": _table, ".tsv": _table}.get(
        path.suffix.lower(), _lines
    )
    try:
        entries = list(read(text.decode("utf-8", "replace")))
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{error}.") from error
    return [_numbers(entry) for entry in entries if isinstance(entry, dict)]


def _history(text: str) -> Iterable[object]:
    saved = json.loads(text)
    history = saved.get("log_history") if isinstance(saved, dict) else None
    return history if isinstance(history, list) else []


def _table(text: str) -> Iterable[object]:
    lines = text.splitlines()
    delimiter = "\t" if lines and lines[0].count("\t") > lines[0].count(",") else ","
    return csv.DictReader(lines, delimiter=delimiter)


def _lines(text: str) -> Iterable[object]:
    """One object a line; the last one may still be being written."""
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise


def _numbers(entry: Mapping[object, object]) -> Record:
    pairs = ((_plain(str(name)), _number(value)) for name, value in islice(entry.items(), 1000))
    return {name: value for name, value in pairs if value is not None}


def _plain(name: str) -> str:
    """`train/loss`, `Train Loss` and `train-loss` as `train_loss`."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _value(record: Record, names: Iterable[str]) -> float | None:
    """The first of the names that a record has; a rate also as the `lr_ADAMW` of a rate monitor."""
    known = next((record[name] for name in names if name in record), None)
    if known is None and names is RATES:
        return next((value for name, value in record.items() if name.startswith("lr_")), None)
    return known


def _last(path: Path, records: list[Record], step: int | None) -> TrainerLog:
    """Each number from the last record that has it, none from after the step."""
    known = [record for record in records if step is None or (_step(record) or 0) <= step]
    losses = [loss for record in known if (loss := _value(record, LOSSES)) is not None]
    rates = [rate for record in known if (rate := _value(record, RATES)) is not None]
    steps = [number for record in known if (number := _step(record)) is not None]
    return TrainerLog(
        path=path,
        records=len(records),
        step=steps[-1] if steps else None,
        loss=losses[-1] if losses else None,
        learning_rate=rates[-1] if rates else None,
        not_finite=sum(not math.isfinite(loss) for loss in losses),
    )


def _step(record: Record) -> int | None:
    value = _value(record, tuple(map(_plain, STEPS)))
    return int(value) if value is not None and math.isfinite(value) else None
