"""What trainers write beside checkpoints about loss, step and rate, read as data: JSON, JSON lines and CSV.

trainer_state.json (Hugging Face) holds {"log_history": [{"step", "loss", "learning_rate", …}, …]}; metrics.csv
(Lightning) and other tables have a header; .jsonl files one object a line. Larger files than LIMIT are left alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fromage_cli.checkpoints.finding.trainer_files import TRAINER
from fromage_cli.checkpoints.names.steps import STEP_NAMES, order_in_name
from fromage_cli.checkpoints.storage.files import names_in, opened, quoted
from fromage_cli.checkpoints.storage.json_file import is_crowded
from fromage_cli.errors import InputError

LIMIT, MOST, LONGEST_LINE = 20_000_000, 200_000, 1_000_000
"""Bytes of a file, its lines or entries, and characters of a line: a log of more than that is left alone."""
FILES = 8
"""Logs that are read at most."""
LOSSES = ("loss", "train_loss", "training_loss", "loss_train", "train_loss_step", "train_loss_epoch", "lm_loss")
RATES = ("learning_rate", "lr", "train_lr", "train_learning_rate")
STEPS = (*STEP_NAMES, "_step", "trainer_global_step", "train_global_step")
_LOG_NAME = re.compile(r"(^|[-_.])(logs?|metrics|history|progress|train(ing)?|stats|scalars|results)([-_.]|$)", re.I)
_AROUND = re.compile(r"checkpoints?$|ckpts?$|weights$|snapshots?$", re.I)

Entry = TypeVar("Entry")
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
    read: Callable[[bytes], Iterable[object]] = {".json": _history, ".csv": _table, ".tsv": _table}.get(
        path.suffix.lower(), _objects
    )
    try:
        return [_numbers(entry) for entry in _at_most(read(text)) if isinstance(entry, dict)]
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{error}.") from error


def _at_most(entries: Iterable[Entry]) -> Iterator[Entry]:
    for count, entry in enumerate(entries):
        if count == MOST:
            raise InputError(f"it has more than {MOST} lines or entries.")
        yield entry


def _history(text: bytes) -> Iterable[object]:
    if is_crowded(text):
        raise InputError("it has far too many values for its length.")
    saved = json.loads(text.decode("utf-8", "replace"))
    history = saved.get("log_history") if isinstance(saved, dict) else None
    return history if isinstance(history, list) else []


def _table(text: bytes) -> Iterable[object]:
    first = text.partition(b"\n")[0]
    return csv.DictReader(_lines(text), delimiter="\t" if first.count(b"\t") > first.count(b",") else ",")


def _lines(text: bytes) -> Iterator[str]:
    """The lines, one after another."""
    for line in _at_most(io.TextIOWrapper(io.BytesIO(text), "utf-8", "replace")):
        if len(line) > LONGEST_LINE:
            raise InputError(f"it has a line of more than {LONGEST_LINE} characters.")
        yield line


def _objects(text: bytes) -> Iterable[object]:
    """One object a line; the last one may still be being written."""
    fault: ValueError | None = None
    for line in filter(str.strip, _lines(text)):
        if fault is not None:
            raise fault
        try:
            yield json.loads(line)
        except ValueError as error:
            fault = error


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
