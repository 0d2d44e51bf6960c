"""Metrics in the text format of Prometheus, for a file that node_exporter's textfile collector serves.

https://prometheus.io/docs/instrumenting/exposition_formats/ ; samples have no timestamps, with which node_exporter
refuses a whole file.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from fromage_cli.errors import FromageError
from fromage_cli.terminal.answer import Answer
from fromage_cli.terminal.envelope import Circumstances, exit_code, status
from fromage_cli.terminal.rows import cell
from fromage_cli.terminal.words import visible

HELP = {
    "exit_code": "Exit code of the last call: 0 done, 10 warnings, 11 failures, else an error.",
    "last_run_timestamp_seconds": "When the last call ended, in seconds since 1970.",
    "duration_seconds": "How long the last call took.",
    "verdict": "0 nothing wrong, 1 a warning, 2 a failure; absent where the call was not finished.",
    "findings": "How many findings there are of each severity.",
    "finding": "1 for each warning and failure, the first of many.",
    "checkpoint_step": "Training step of the last checkpoint.",
    "value": "Numbers of the answer's summary, by name and unit.",
}
"""What each metric is, by its name after the prefix; all are gauges."""
PREFIX = "fromage_diag_"
VERDICTS = {"ok": 0, "warn": 1, "fail": 2}
SEVERITIES = ("fail", "warn", "info")
MOST = 50
"""Findings with a series of their own: each label's value is kept for months."""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]
"""A metric's name, labels and value."""


def metrics(results: Sequence[Answer | FromageError], circumstances: Circumstances) -> str:
    """The metrics of all results, with a help line and a type each; no two samples have the same labels."""
    samples: dict[tuple[str, str], float] = {}
    for result in results:
        for name, labels, value in _samples(result, circumstances, len(results) > 1):
            samples[name, _label_list(labels)] = value
    lines = []
    for name, help in HELP.items():
        own = {labels: value for (metric, labels), value in samples.items() if metric == name}
        if own:
            lines += [f"# HELP {PREFIX}{name} {help}", f"# TYPE {PREFIX}{name} gauge"]
            lines += [f"{PREFIX}{name}{labels} {spelled(value)}" for labels, value in own.items()]
    return "\n".join(lines) + "\n"


def _samples(result: Answer | FromageError, circumstances: Circumstances, several: bool) -> Iterator[Sample]:
    """Everything there is to tell of one result; of several each has its own run and checkpoint as labels."""
    shared = {"command": circumstances.command or "", "run": run_of(next(iter(circumstances.checkpoints), ""))}
    yield "last_run_timestamp_seconds", shared, time.time()
    if circumstances.seconds is not None:
        yield "duration_seconds", shared, circumstances.seconds
    checkpoint = result.checkpoints[-1] if isinstance(result, Answer) and result.checkpoints else None
    own_place = {"run": run_of(checkpoint.path), "checkpoint": checkpoint.path} if checkpoint is not None else {}
    labels = shared | (own_place if several else {})
    yield "exit_code", labels, exit_code(result, circumstances.fail_on)
    if not isinstance(result, Answer):
        return
    if result.error is None:
        yield "verdict", labels, VERDICTS[status(result)]
    grave = [finding for finding in result.findings if finding.severity != "info"]
    for severity in SEVERITIES:
        yield "findings", labels | {"severity": severity}, sum(one.severity == severity for one in result.findings)
    for finding in sorted(grave, key=lambda one: SEVERITIES.index(one.severity))[:MOST]:
        own = {"severity": finding.severity, "code": finding.code, "layer": finding.layer or ""}
        yield "finding", labels | own, 1
    if checkpoint is not None and checkpoint.step is not None:
        yield "checkpoint_step", labels, checkpoint.step
    for name, value, unit in result.numbers:
        if isinstance(value, int | float):
            yield "value", labels | {"name": name, "unit": unit}, value


def run_of(place: str) -> str:
    """The name of the run's directory, which stays the same from one checkpoint to the next; empty for no place."""
    from fromage_cli.checkpoints.finding.directory import SUFFIXES
    from fromage_cli.checkpoints.names.steps import step_of_directory

    if not place:
        return ""
    path = PurePath(place if "://" in place else Path(place).absolute())
    any_suffix = {suffix for suffixes in SUFFIXES for suffix in suffixes}
    while path.name and (
        path.suffix in any_suffix or step_of_directory(path.name) is not None or path.name.isdecimal()
    ):
        path = path.parent
    return path.name


def _label_list(labels: Labels) -> str:
    """`{name="value",…}`; an empty value is the same as none."""
    told = [f'{name}="{escaped(visible(value))}"' for name, value in labels.items() if value]
    return f"{{{','.join(told)}}}" if told else ""


def escaped(text: str) -> str:
    """A label's value between its quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def spelled(value: float) -> str:
    """A value as Prometheus reads it: `NaN`, `+Inf`, `-Inf`, or at full precision."""
    if isinstance(value, bool):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return cell(value)
