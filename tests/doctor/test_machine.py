import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from fromage_cli import process_memory
from fromage_cli.doctor import machine
from fromage_cli.doctor.result import TemporaryDirectory
from fromage_cli.missing import Missing, Why


def test_processors_are_those_that_this_process_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = machine.processors(with_torch=True)
    assert (found.usable, found.machine, found.threads, found.omp_num_threads) == (3, 64, 7, "7")
    assert isinstance(machine.processors(with_torch=False).threads, Missing)


def test_memory_has_the_numbers_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n")
    (tmp_path / "memory.max").write_text("512000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(process_memory, "WHOLE_MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(process_memory, "OWN_GROUPS", tmp_path / "none")
    group = (tmp_path / "memory.max", tmp_path / "memory.current")
    monkeypatch.setattr(process_memory, "CONFINED", (group, group))
    found = machine.memory()
    assert (found.machine, found.available, found.limit) == (1_024_000, 510_000, 512_000)


@pytest.mark.parametrize("text", ["max\n", "", "broken", str(2**63 - 4096)])
def test_a_limit_that_is_none_or_cannot_be_read_is_no_limit(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(text)
    place = (tmp_path / "memory.max", tmp_path / "memory.current")
    monkeypatch.setattr(process_memory, "CONFINED", (place, place))
    monkeypatch.setattr(process_memory, "OWN_GROUPS", tmp_path / "none")
    monkeypatch.setattr(process_memory, "WHOLE_MACHINE", tmp_path / "none")
    found = machine.memory()
    assert isinstance(found.limit, Missing) and found.limit.code is Why.NOT_DEFINED
    assert isinstance(found.machine, Missing) and found.machine.code is Why.NOT_TOLD


def fake_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150_000_000_000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)

    def free(index: int) -> tuple[int, int]:
        if index == 1:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable.\nmore")
        return 90_000_000_000, 150_000_000_000

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)


def test_every_gpu_is_asked_for_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    first, second, apple = machine.devices()
    assert (first.name, first.model, first.memory, first.free) == (
        "cuda:0",
        "NVIDIA H200",
        150_000_000_000,
        90_000_000_000,
    )
    assert isinstance(second.free, Missing) and second.free.code is Why.NOT_EVALUATED
    assert second.free.words == "CUDA error: all CUDA-capable devices are busy or unavailable"
    assert apple.name == "mps"


def test_a_terminal_is_as_the_program_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    found = machine.terminal()
    assert found.columns == 123 and not found.is_terminal and not found.colour and not found.ascii_only


def test_tensors_come_back_and_nothing_is_left(tmp_path: Path) -> None:
    found = machine.write_and_read(TemporaryDirectory(str(tmp_path), 1))
    assert (found.written, found.of) == (4, 4)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_come_back_changed_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = safetensors.torch.load_file

    def changed(path: Path) -> dict[str, torch.Tensor]:
        tensors = load(path)
        tensors["torch.float32"][3] += 1e-6
        del tensors["torch.bfloat16"]
        return tensors

    monkeypatch.setattr(safetensors.torch, "load_file", changed)
    assert machine.write_and_read(TemporaryDirectory(str(tmp_path), 1)).written == 2


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    found = machine.write_and_read(TemporaryDirectory(str(tmp_path / "gone"), 1))
    assert isinstance(found.written, Missing) and "No such file" in found.written.words


def test_the_space_that_is_left_is_that_of_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: SimpleNamespace(free=17))
    assert machine.temporary_directory() == TemporaryDirectory(str(tmp_path), 17)


@pytest.mark.parametrize(("wanted", "passed_over"), [("gone", "gone"), ("", None), (".", None), ("../here/", None)])
def test_a_tmpdir_that_python_passes_over_is_told(
    wanted: str, passed_over: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", wanted)
    monkeypatch.setattr(machine.tempfile, "tempdir", None)
    assert machine.temporary_directory().passed_over == passed_over


def test_a_temporary_directory_that_is_gone_has_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    found = machine.temporary_directory().free
    assert isinstance(found, Missing) and "no such file" in found.words
