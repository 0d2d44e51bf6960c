import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from fromage_cli import cli
from fromage_cli.terminal import session


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_program", Path(__file__).parent / "fake_program.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_program"] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    return _load()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty working directory, and no flag in the environment."""
    for name in list(os.environ):
        if name.startswith("FROMAGE_DIAG_") or name in ("NO_COLOR", "COLUMNS", "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with session.scope():  # whatever ran before in this process
        yield tmp_path


@pytest.fixture
def call(fake: ModuleType, capsys: pytest.CaptureFixture[str], clean: Path):
    """Run the program in this process."""

    def run(*args: str) -> Outcome:
        capsys.readouterr()
        fake.SEEN.clear()
        with pytest.raises(SystemExit) as exit:
            cli.main(list(args), fake.program())
        captured = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), captured.out, captured.err)

    return run
