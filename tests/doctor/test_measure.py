import sys
from pathlib import Path

import pytest

from fromage_cli.doctor import attention as attention_module
from fromage_cli.doctor import dependencies
from fromage_cli.doctor import measure as module
from fromage_cli.doctor.findings import judge
from fromage_cli.doctor.measure import measure
from fromage_cli.doctor.result import DoctorResult
from fromage_cli.missing import LIMIT_REACHED, Interrupted, Missing, Why
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.terminal.flags import CommandFlags


def measured(flags: CommandFlags, directory: Path, budget: Budget | None = None) -> DoctorResult:
    found = measure(flags, {}, directory, budget or Budget())
    assert isinstance(found, DoctorResult)
    return found


def test_this_machine_works(flags: CommandFlags, tmp_path: Path) -> None:
    found = measured(flags, tmp_path)
    assert judge(found) == () and found.failures == ()
    assert not isinstance(found.self_test, Missing) and found.self_test[0].device == "cpu"


def test_a_part_that_fails_is_said_and_the_others_go_on(
    flags: CommandFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: object) -> None:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(attention_module, "attention", broken)
    found = measured(flags, tmp_path)
    assert found.attention == Missing(Why.NOT_EVALUATED, "RuntimeError: no kernel image is available")
    assert found.failures == ("attention: RuntimeError: no kernel image is available",)
    assert not isinstance(found.self_test, Missing)
    assert [finding.code for finding in judge(found)] == ["check-ended-in-error"]


@pytest.mark.parametrize(("package", "lost"), [("torch", 4), ("safetensors", 2), ("numpy", 2)])
def test_what_needs_a_package_is_left_out_without_it(
    package: str, lost: int, flags: CommandFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dependencies.NEEDED, package, ("no_such_module", "1.0", "Tensor"))
    found = measured(flags, tmp_path)
    parts = (found.devices, found.temporary_directory.written, found.attention, found.self_test)
    absent = [part for part in parts if isinstance(part, Missing)]
    assert absent == lost * [Missing(Why.NOT_INSTALLED, f"{package} cannot be imported")]
    assert [finding.code for finding in judge(found)] == ["package-not-usable"]


def test_a_limit_of_time_keeps_what_was_found(flags: CommandFlags, tmp_path: Path) -> None:
    found = measure(flags, {}, tmp_path, Budget(seconds=1e-9))
    assert isinstance(found, Interrupted) and "time limit" in found.error.message
    assert found.found.versions and found.found.attention is LIMIT_REACHED and judge(found.found) == ()


def test_a_limit_of_time_needs_no_torch(flags: CommandFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dependencies.NEEDED, "torch", ("no_such_module", "1.0", "Tensor"))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert isinstance(measure(flags, {}, tmp_path, Budget(seconds=100.0)), DoctorResult)


def test_a_gpu_is_tested_beside_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [str(device) for device in module._computing()] == ["cpu", "cuda:0"]
