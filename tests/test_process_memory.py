import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fromage_cli import process_memory
from fromage_cli.process_memory import largest_resident, memory_limit, peak_device_memory, peak_memory

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


def confined(root: Path, monkeypatch: pytest.MonkeyPatch, groups: str) -> None:
    """A tree of control groups below `root`, and the groups that this process is said to be in."""
    newer = (root / "memory.max", root / "memory.current")
    older = (root / "memory" / "memory.limit_in_bytes", root / "memory" / "memory.usage_in_bytes")
    monkeypatch.setattr(process_memory, "CONFINED", (newer, older))
    (root / "groups").write_text(groups)
    monkeypatch.setattr(process_memory, "OWN_GROUPS", root / "groups")


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/slurm/job_7/step_0\n", {"slurm/job_7/memory.max": "3000", "slurm/memory.max": "max"}, 3000),
        ("0::/slurm/job_7\n", {"slurm/memory.max": "2000", "slurm/job_7/memory.max": "5000"}, 2000),
        ("4:memory:/slurm/job_7\n1:cpu:/\n", {"memory/slurm/job_7/memory.limit_in_bytes": "4000"}, 4000),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4000", "memory.max": "9000"}, 4000),
        ("0::/../../above\n", {"memory.max": "9000"}, 9000),
        ("broken\n\n", {"memory.max": "9000"}, 9000),
        ("0::/a\n", {"a/memory.max": str(2**63 - 4096)}, None),
        ("0::/a\n", {"a/memory.max": "lots"}, None),
        ("0::/a\n", {}, None),
    ],
)
def test_the_limit_is_the_least_of_the_groups_of_this_process(
    groups: str, limits: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confined(tmp_path, monkeypatch, groups)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit() == expected


def test_another_module_named_torch_has_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert peak_device_memory() is None
