"""Metrics of the last diagnosis for Prometheus: a file that is replaced whole after each checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromage_cli.errors import FromageError, InputError
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer, CheckpointRecord, summary
from fromage_cli.terminal.envelope import Circumstances
from fromage_cli.terminal.output import write_file
from fromage_cli.terminal.prometheus import PREFIX, metrics

BEGINNING = f"# HELP {PREFIX}"
"""What a metrics file of this program begins with: only such a file is replaced."""


def refuse_foreign(path: Path) -> None:
    """Raise InputError for a file that is there and is not a metrics file of this program."""
    if path.exists() and not path.is_file():
        raise InputError(f"--metrics {str(path)!r} is no regular file.", "Name another file.")
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            own = file.read(len(BEGINNING)) in ("", BEGINNING)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"--metrics {str(path)!r} cannot be read: {error.strerror}.", "Name another file.") from error
    if not own:
        raise InputError(f"--metrics {str(path)!r} holds something else.", "Name another file.")


def write_metrics(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the file by the metrics of a line of the log; raise InputError where it cannot be written."""
    settings = {"fail_on": record.get("settings", {}).get("fail_on", "fail")}
    circumstances = Circumstances("watch", settings, record["tool"].get("seconds"), checkpoints=(record["path"],))
    write_file(path, metrics([_answer(record)], circumstances), force=True)


def _answer(record: Mapping[str, Any]) -> Answer | FromageError:
    """The diagnosis as its command had it, as far as metrics tell of it."""
    told = record.get("error")
    error = None if told is None else _Told(told["message"], record["exit_code"])
    result = record.get("result")
    if result is None:
        return error or _Told("", record["exit_code"])
    numbers = [(f"{one['command']} {one['name']}", one["value"], one["unit"]) for one in result["numbers"]]
    checkpoint = {name: record["checkpoints"][-1][name] for name in ("path", "format", "step", "parameters")}
    return Answer(
        result=None,
        page=lambda style: "",
        tables={"summary": lambda: summary(numbers)},
        findings=tuple(Finding(**one) for one in record["findings"]),
        checkpoints=(CheckpointRecord(**checkpoint),),
        error=error,
    )


class _Told(FromageError):
    """An error as a record of it tells."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
