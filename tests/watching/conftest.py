"""What the tests of following share: small checkpoints, and a follower whose diagnosis is a note of what was asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.watching.diagnosis import Diagnosis
from fromage_cli.watching.following import Follower
from fromage_cli.watching.log import WatchLog

Save = Callable[..., Path]


def envelope(verdict: str | None = "go", step: int | None = None, **more: Any) -> dict[str, Any]:
    """What `check` prints, as far as it is looked at."""
    severity = {"stop": "fail", "look": "warn"}.get(verdict or "")
    finding = {"code": "x", "severity": severity, "layer": "w", "message": "it is hot", "hint": "cool it"}
    result = {"verdict": verdict, "looked": ["inspect", "state", "norms"], "results": {"inspect": {"totals": {"a": 2}}}}
    return {
        "schema": "fromage-diag/1",
        "checkpoints": [] if step is None else [{"step": step}],
        "result": None if verdict is None else result,
        "findings": [finding] if severity else [],
        **more,
    }


@dataclass
class Watched:
    """A follower, and what it asked, told and said."""

    follower: Follower
    asked: list[list[str]] = field(default_factory=list)
    """Names of the checkpoints of each diagnosis."""
    told: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)
    """What happens while the next diagnoses run, one each."""
    answer: dict[str, Any] = field(default_factory=envelope)

    def looks(self, count: int = 2) -> list[str]:
        """The new checkpoints that so many looks diagnose."""
        before = len(self.asked)
        for _ in range(count):
            self.follower.look()
        return [names[-1] for names in self.asked[before:]]


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def save(run_directory: Path) -> Save:
    """Writes a checkpoint whose single number tells it from others."""

    def write(name: str, value: float = 0.0) -> Path:
        path = run_directory / name
        path.parent.mkdir(exist_ok=True)
        tensors = {"w": torch.full((4, 4, 3), value)}
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
        return path

    return write


@pytest.fixture
def watch(run_directory: Path, tmp_path: Path) -> Callable[[], Watched]:
    """Begins to follow the run, with the log as it stands."""
    held: list[WatchLog] = []

    def begin() -> Watched:
        while held:
            held.pop().close()
        said: list[str] = []
        log = WatchLog(tmp_path / "log.jsonl", run_directory, said.append)
        held.append(log)

        def diagnose(earlier: Sequence[Path], path: Path) -> Diagnosis:
            watched.asked.append([one.name for one in (*earlier, path)])
            if watched.meanwhile:
                watched.meanwhile.pop(0)()
            return Diagnosis(0, watched.answer)

        told: list[dict[str, Any]] = []
        follower = Follower(run_directory, log, diagnose, lambda record: told.append(dict(record)), said.append)
        watched = Watched(follower, told=told, said=said)
        return watched

    return begin
