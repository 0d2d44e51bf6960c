"""A diagnosis in one line, for a person: when, which step, the verdict and what decided it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fromage_cli.diagnostics.check.findings import sentence
from fromage_cli.findings import Finding
from fromage_cli.terminal.words import visible


def line(record: Mapping[str, Any]) -> str:
    """Return the line; times are those of this machine's time zone."""
    when = datetime.fromisoformat(record["watched_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    step = "" if record["step"] is None else f"step {record['step']}"
    return visible(f"{when}  {step or record['path']}  {said(record)}")


def said(record: Mapping[str, Any]) -> str:
    """Return the verdict in a sentence, or why there is none."""
    error, result = record.get("error"), record.get("result")
    if not result:
        return f"Not judged: {error['message'] if error else 'check gave no reason.'}"
    findings = [Finding(**finding) for finding in record["findings"]]
    verdict = sentence(result["verdict"], findings, len(result["looked"]))
    return f"{verdict} Cut short: {error['message']}" if error else verdict
