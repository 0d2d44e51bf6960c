"""What every hostile file is held to: nothing runs, hangs, swells, leaks a control sequence or ends in a traceback."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.cli import main

SECONDS, SECONDS_PER_BYTE = 1.0, 2e-6
"""Processor time of one command: a second, and two for every megabyte beside."""
ALLOWED = 100_000_000
"""Bytes that may be held beside twice the file: what a reader grants any pickle, and the program itself."""
RUNNING = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
}
RUNNING |= {"shutil.rmtree", "os.remove", "os.rename", "os.mkdir", "os.symlink", "ctypes.dlopen"}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MOST_LINES = 6


class Payload:
    """Calls a function when an ordinary unpickler reads it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


_watched: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event in RUNNING or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        _watched.append(f"{event} {arguments!r:.200}")
    elif event == "open" and "secret" in str(arguments[0]):
        _watched.append(f"open {arguments!r:.200}")


sys.addaudithook(_hook)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists only once something has run."""
    return tmp_path / "canary"


@pytest.fixture
def payload(canary: Path) -> Payload:
    return Payload(os.system, f"touch {canary}")


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import everything once, so that only the files are measured."""
    directory = tmp_path_factory.mktemp("warm")
    save_file({"w": torch.ones(2, 2)}, directory / "x.safetensors")
    torch.save({"w": torch.ones(2, 2)}, directory / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        for arguments in (["inspect", "--json"], ["inspect", "--format", "rich"], ["inspect", "--safety"]):
            with pytest.raises(SystemExit):
                main([*arguments, str(directory / name)])


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], canary: Path) -> Iterator[Callable[..., Ended]]:
    """Run a command on a file under guard, and say how it ended; `codes` are those with which it may end."""

    def call(*arguments: object, codes: tuple[int, ...] = (3,)) -> Ended:
        size = sum(map(_size, arguments))
        done, seconds = once(arguments, codes, size)
        if seconds > SECONDS + size * SECONDS_PER_BYTE and "-o" not in arguments:  # the machine may have been busy
            done, seconds = once(arguments, codes, size)
        assert seconds <= SECONDS + size * SECONDS_PER_BYTE
        return done

    def once(arguments: tuple[object, ...], codes: tuple[int, ...], size: int) -> tuple[Ended, float]:
        global _watched  # noqa: PLW0603 - audit hooks cannot be removed
        _reset_peak()
        held, began = _resident("VmRSS"), time.process_time()
        _watched = []
        try:
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        finally:
            seen, _watched = _watched, None
        seconds, peak = time.process_time() - began, _resident("VmHWM")
        captured = capsys.readouterr()
        done = Ended(int(ended.value.code or 0), captured.out, captured.err)
        assert done.code in codes, (done.code, done.err)
        assert seen == []
        assert not canary.exists()
        assert peak - held <= ALLOWED + 2 * size
        assert "Traceback" not in done.err and "bug in fromage-diag" not in done.err
        assert not CONTROL.search(done.out + done.err)
        if done.code:
            assert (
                done.err.startswith(("error: ", "note: ", "warn", "fail")) and len(done.err.splitlines()) <= MOST_LINES
            )
        return done, seconds

    yield call
    assert not canary.exists()


def _size(argument: object) -> int:
    """Bytes in a file, or in all files of a directory."""
    path = Path(str(argument))
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return sum(file.stat().st_size for file in files if file.is_file())


def _reset_peak() -> None:
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")


def _resident(field: str) -> int:
    """Bytes in memory now (VmRSS), or at most since the peak was reset (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
