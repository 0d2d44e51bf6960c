from pathlib import Path
from typing import Any

import pytest

from fromage_cli.watching import alarm
from fromage_cli.watching.alarm import sound

from .conftest import envelope


def record(step: int | None = 7) -> dict[str, Any]:
    return {"path": "run/a b.pt", "step": step, **envelope("stop")}


def test_the_command_finds_what_it_is_about(tmp_path: Path) -> None:
    said: list[str] = []
    names = ("CHECKPOINT", "STEP", "VERDICT", "LOG")
    values = " ".join(f'"$FROMAGE_DIAG_{name}"' for name in names)
    command = f"printf '%s\\n' {values} > {tmp_path / 'out'}"
    sound(command, record(), Path("/logs/x"), said.append)
    sound(f'echo "<$FROMAGE_DIAG_STEP>" >> {tmp_path / "out"}', record(None), Path("/logs/x"), said.append)
    assert (tmp_path / "out").read_text().splitlines() == ["run/a b.pt", "7", "stop", "/logs/x", "<>"]
    assert said == []


@pytest.mark.parametrize(
    ("command", "words"), [("exit 3", "exit code 3"), ("kill -11 $$", "signal 11"), ("sleep 100", "killed after")]
)
def test_a_failure_is_told(command: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm, "LONGEST", 0.5)
    said: list[str] = []
    sound(command, record(), Path("log"), said.append)
    assert len(said) == 1 and words in said[0]
