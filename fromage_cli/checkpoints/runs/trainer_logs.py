"""What trainers write beside checkpoints about loss, step and rate, read as data: JSON, JSON lines and CSV.

trainer_state.json (Hugging Face) holds {"log_history": [{"step", "loss", "learning_rate", …}, …]}; metrics.csv
(Lightning) and other tables have a header; .jsonl files one object a line. Files above LARGEST_LOG are left alone.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

from fromage_cli.checkpoints.finding.trainer_files import TRAINER_STATE
from fromage_cli.checkpoints.names.steps import STEP_NAMES, order_in_name
from fromage_cli.checkpoints.storage.files import names_in, opened, quoted
from fromage_cli.checkpoints.storage.json_file import is_crowded
from fromage_cli.errors import InputError

LARGEST_LOG, MOST_ENTRIES, LONGEST_LOG_LINE = 20_000_000, 200_000, 1_000_000
"""Bytes of a file, its lines or entries, characters of a line: a log of more is left alone, for it takes seconds."""
MOST_COLUMNS = 1000
"""Numbers of an entry that are looked at."""
MOST_LOGS = 8
"""Logs that are read at most: a run has one or two."""
FOLDERS = 3
"""Directories that are looked at, from the weights' own upwards."""
LOSS_NAMES = ("loss", "train_loss", "training_loss", "loss_train", "train_loss_step", "train_loss_epoch", "lm_loss")
RATE_NAMES = ("learning_rate", "lr", "train_lr", "train_learning_rate")
LOGGED_STEP_NAMES = (*STEP_NAMES, "_step", "trainer_global_step", "train_global_step")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
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
    """Read the logs beside a weights file, up to a step where one is known; notes tell which could not be read.

    Looked at are its directory, and the one above where that only gathers the checkpoints of a run.
    """
    logs, notes = [], []
    found = _logs_beside(weights)
    for path in found[:MOST_LOGS]:
        try:
            records = _records(path)
        except InputError as error:
            notes.append(f"Left out the log {quoted(path)}: {error.message}")
            continue
        if all(_value(record, LOSS_NAMES) is None and _value(record, RATE_NAMES) is None for record in records):
            continue
        upto = [record for record in records if step is None or (_step(record) or 0) <= step]
        losses = [loss for record in upto if (loss := _value(record, LOSS_NAMES)) is not None]
        rates = [rate for record in upto if (rate := _value(record, RATE_NAMES)) is not None]
        steps = [number for record in upto if (number := _step(record)) is not None]
        log = TrainerLog(
            path=path,
            records=len(records),
            step=steps[-1] if steps else None,
            loss=losses[-1] if losses else None,
            learning_rate=rates[-1] if rates else None,
            not_finite=sum(not math.isfinite(loss) for loss in losses),
        )
        logs.append(log)
    if len(found) > MOST_LOGS:
        notes.append(f"Read {MOST_LOGS} of {len(found)} logs beside the weights.")
    return tuple(logs), tuple(notes)


def logged_rates(weights: Path) -> dict[float, float]:
    """Return the learning rates by step that the logs beside a weights file hold; of several logs the first counts."""
    found: dict[float, float] = {}
    for path in _logs_beside(weights)[:MOST_LOGS]:
        with suppress(InputError):  # a log only helps; inspect names those that cannot be read
            for record in _records(path):
                step, rate = _step(record), _value(record, RATE_NAMES)
                if step is not None and rate is not None and 0.0 <= rate < math.inf:
                    found.setdefault(float(step), rate)
    return dict(sorted(found.items()))


def _logs_beside(weights: Path) -> list[Path]:
    """Return the logs in the weights' directory, and above as long as a name says that it holds steps of a run."""
    folder, found = weights.absolute().parent, []
    for _ in range(FOLDERS):
        with suppress(InputError):  # a directory above that may not be read
            for name in sorted(names_in(folder)):
                path = folder / name
                table = path.suffix.lower() in TABLES and _LOG_NAME.search(path.stem) and not name.startswith(".")
                if (table or name == TRAINER_STATE) and path.is_file():
                    found.append(path)
        if not (order_in_name(folder.name) or _AROUND.search(folder.name)):
            break
        folder = folder.parent
    return found


def _records(path: Path) -> list[Record]:
    """Return the numbers of every entry of a log, first to last; raises InputError where it cannot be read."""
    with opened(path) as file:
        text = file.read(LARGEST_LOG + 1)
    if len(text) > LARGEST_LOG:
        raise InputError(f"it is larger than {LARGEST_LOG} bytes.")
    read = {".json": _history, ".csv": _table, ".tsv": _table}.get(path.suffix.lower(), _objects)
    records: list[Record] = []
    try:
        for entry in _at_most(read(text)):
            if not isinstance(entry, dict):
                continue
            record = {}
            for name, value in islice(entry.items(), MOST_COLUMNS):
                if isinstance(value, int | float | str) and not isinstance(value, bool):
                    with suppress(ValueError, OverflowError):  # a text that is no number
                        record[_plain(str(name))] = float(value)
            records.append(record)
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{error}.") from error
    return records


def _at_most(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries; raises InputError where there are too many."""
    for count, entry in enumerate(entries):
        if count == MOST_ENTRIES:
            raise InputError(f"it has more than {MOST_ENTRIES} lines or entries.")
        yield entry


def _history(text: bytes) -> Iterable[object]:
    """Return the entries of a trainer_state.json."""
    if is_crowded(text):
        raise InputError("it has far too many values for its length.")
    saved = json.loads(text.decode("utf-8", "replace"))
    history = saved.get("log_history") if isinstance(saved, dict) else None
    return history if isinstance(history, list) else []


def _table(text: bytes) -> Iterable[object]:
    """Return the lines of a table by its header."""
    first = text.partition(b"\n")[0]
    rows = csv.reader(_lines(text), delimiter="\t" if first.count(b"\t") > first.count(b",") else ",")
    header = next(rows, [])
    return (dict(zip(header, row, strict=False)) for row in rows)  # a row may be far shorter than the header


def _lines(text: bytes) -> Iterator[str]:
    """Yield the lines, one after another."""
    for line in _at_most(io.TextIOWrapper(io.BytesIO(text), "utf-8", "replace")):
        if len(line) > LONGEST_LOG_LINE:
            raise InputError(f"it has a line of more than {LONGEST_LOG_LINE} characters.")
        yield line


def _objects(text: bytes) -> Iterable[object]:
    """Yield one object a line; the last one may still be being written."""
    fault: ValueError | None = None
    for line in filter(str.strip, _lines(text)):
        if fault is not None:
            raise fault
        try:
            yield json.loads(line)
        except ValueError as error:
            fault = error


@lru_cache(maxsize=MOST_COLUMNS)  # a table has the same names in every line
def _plain(name: str) -> str:
    """Return `train_loss` for `train/loss`, `Train Loss` and `train-loss`."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _value(record: Record, names: Iterable[str]) -> float | None:
    """Return the first of the names that a record has; a rate also as the `lr_ADAMW` of a rate monitor."""
    known = next((record[name] for name in names if name in record), None)
    if known is None and names is RATE_NAMES:
        return next((value for name, value in record.items() if name.startswith("lr_")), None)
    return known


def _step(record: Record) -> int | None:
    """Return the step of a record."""
    value = _value(record, tuple(map(_plain, LOGGED_STEP_NAMES)))
    return int(value) if value is not None and math.isfinite(value) else None
