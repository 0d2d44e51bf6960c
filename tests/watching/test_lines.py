from datetime import UTC, datetime
from typing import Any

from fromage_cli.watching.lines import line, said

from .conftest import envelope

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(verdict: str | None = "go", step: int | None = 7, **more: Any) -> dict[str, Any]:
    return {"watched_at": NOW.isoformat(), "path": "run/last.pt", "step": step, **envelope(verdict, **more)}


def test_a_line_has_the_local_time_the_step_and_the_verdict() -> None:
    when = NOW.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert line(record()) == f"{when}  step 7  Go on: 3 commands found nothing wrong."
    assert line(record(step=None)).startswith(f"{when}  run/last.pt  Go on")


def test_the_gravest_finding_is_said() -> None:
    assert said(record("stop")) == "Stop: w: it is hot."
    assert said(record("look")) == "Look at this: w: it is hot."


def test_where_nothing_was_judged_the_reason_is_said() -> None:
    error = {"code": "input", "message": "It is torn.", "hint": ""}
    assert said(record(None, error=error)) == "Not judged: It is torn."
    assert said(record("stop", error=error)) == "Stop: w: it is hot. Cut short: It is torn."


def test_names_cannot_act_on_the_terminal() -> None:
    odd = record("stop", step=None)
    odd["path"], odd["findings"][0]["layer"] = "\x1b[2J", "\u202ew"
    assert "\\x1b[2J" in line(odd) and "\\u202e" in line(odd)
