import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fromage_cli import process_memory
from fromage_cli.process_memory import largest_resident, peak_device_memory, peak_memory

PROGRAM = "from fromage_cli.process_memory import largest_resident; print(largest_resident())"


@pytest.mark.skipif(not process_memory.STATUS.exists(), reason="only Linux hands the figure down")
def test_what_the_process_before_held_does_not_count() -> None:
    ours = bytearray(200_000_000)
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True)
    assert int(run.stdout) < len(ours) / 2


def test_what_was_held_and_let_go_counts() -> None:
    held = bytearray((largest_resident() or 0) // 2 + 100_000_000)
    size = len(held)
    held[::4096] = b"x" * len(held[::4096])
    after = largest_resident() or 0
    del held
    assert size <= after <= (largest_resident() or 0) + 1_000_000  # the kernel counts in batches


@pytest.mark.parametrize("status", [None, "Name: other\n"])
def test_without_a_status_the_usage_of_resources_tells(
    status: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status is not None:
        (tmp_path / "status").write_text(status)
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "status")
    unit = 1 if sys.platform == "darwin" else 1024
    assert largest_resident() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_on_a_device_its_memory_counts_and_no_other(monkeypatch):
    assert peak_memory() == pytest.approx(largest_resident(), abs=1e7)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: 100 + index)
    assert peak_memory() == 201


def test_memory_of_accelerators_is_that_of_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_device_memory() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: 1000 + index)
    assert peak_device_memory() == peak_memory() == 2001
