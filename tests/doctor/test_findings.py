from dataclasses import replace
from typing import Any

import pytest

from fromage_cli.doctor.checks import CHECKS
from fromage_cli.doctor.findings import judge
from fromage_cli.doctor.job import job
from fromage_cli.doctor.result import (
    OWN,
    Attention,
    Device,
    DoctorResult,
    Processors,
    Project,
    SelfTest,
    Setting,
    TemporaryDirectory,
    Version,
)
from fromage_cli.missing import Missing, Why

BUSY = Missing(Why.NOT_EVALUATED, "CUDA error: busy")
FULL = Missing(Why.NOT_EVALUATED, "No space left on device")
ABSENT = Missing(Why.NOT_INSTALLED, "it is not installed")
NO_PRODUCT = Missing(Why.NO_SECOND_DERIVATIVE, "not implemented")


def test_where_everything_works_nothing_is_found(sound: DoctorResult) -> None:
    assert judge(sound) == ()


@pytest.mark.parametrize(
    ("changes", "code", "severity", "words"),
    [
        ({"self_test": (SelfTest("cpu", 6, 0.0, 1e-6, 0.0, 1e-10, 0.1),)}, "self-test-failed", "fail", "off by 1e-06"),
        (
            {"attention": (Attention("cuda:0", OWN, "wrong", 0.2),)},
            "attention-second-derivative-wrong",
            "fail",
            "on cuda:0",
        ),
        (
            {"attention": (Attention("cpu", OWN, "refused", NO_PRODUCT),)},
            "attention-second-derivative-wrong",
            "fail",
            "cannot",
        ),
        (
            {"attention": (Attention("cpu", "flash", "wrong", 0.2),)},
            "attention-backend-wrong",
            "warn",
            "kernel flash gives",
        ),
        ({"temporary_directory": TemporaryDirectory("/tmp", 1, 3, 4)}, "files-differ", "fail", "of 4 tensors"),
        (
            {"temporary_directory": TemporaryDirectory("/tmp", 1, FULL, 4)},
            "temporary-directory-not-usable",
            "warn",
            "No space",
        ),
        (
            {"temporary_directory": TemporaryDirectory("/tmp", 1, 4, 4, "/scratch/none")},
            "temporary-directory-not-usable",
            "warn",
            "no file can be written in /scratch/none, which TMPDIR names: temporary files go to /tmp",
        ),
        ({"failures": ("attention: RuntimeError: x",)}, "check-ended-in-error", "fail", "RuntimeError: x"),
        (
            {"versions": (Version("torch", ABSENT, "2.10", False),)},
            "package-not-usable",
            "fail",
            "torch cannot be imported",
        ),
        ({"versions": (Version("torch", "2.9", "2.10", False),)}, "package-too-old", "warn", "torch is 2.9, and 2.10"),
        (
            {"processors": Processors(2, 64, 64, None)},
            "threads-exceed-processors",
            "warn",
            "64 threads on 2 processors",
        ),
        ({"devices": (Device("cuda:1", "H200", 1, BUSY),)}, "device-not-usable", "fail", "cuda:1 does not answer"),
        ({"job": job({"SLURM_JOB_ID": "1", "SLURM_JOB_GPUS": "0,1"})}, "gpu-not-seen", "warn", "GPUs (0,1)"),
        ({"job": job({"RANK": "x", "WORLD_SIZE": "2"})}, "ranks-not-readable", "fail", "RANK is 'x'"),
        ({"faults": ("dtype: 3 is wrong.",)}, "configuration-wrong", "fail", "dtype: 3 is wrong"),
        (
            {"configuration": (Setting("X", "1", "environment", "FROMAGE_DIAG_X", False, "no such flag", True),)},
            "setting-without-effect",
            "warn",
            "FROMAGE_DIAG_X has no effect",
        ),
        (
            {"project": Project("/p/fromage.toml", "not trusted", ("n.py:f",))},
            "configuration-not-trusted",
            "warn",
            "n.py:f",
        ),
    ],
)
def test_a_fault_is_found_with_its_number_and_a_remedy(
    changes: dict[str, Any], code: str, severity: str, words: str, sound: DoctorResult
) -> None:
    (found,) = judge(replace(sound, **changes))
    assert (found.code, found.severity) == (code, severity)
    assert words in found.message and found.hint
    assert code == "check-ended-in-error" or code in {each for _, codes in CHECKS.values() for each in codes}


@pytest.mark.parametrize(
    "changes",
    [
        {"project": Project("/p/fromage.toml", "trusted", ("n.py:f",))},
        {"project": Project("/p/fromage.toml", "names no code", ())},
        {"configuration": (Setting("dtype", "float64", "project", "fromage.toml", False, "a variable goes first"),)},
        {"devices": (Device("mps", "Apple GPU", ABSENT, Missing(Why.NOT_TOLD, "it is not told")),)},
        {"attention": ABSENT, "self_test": ABSENT, "devices": ABSENT},
    ],
)
def test_what_is_as_it_should_be_is_no_finding(changes: dict[str, Any], sound: DoctorResult) -> None:
    assert judge(replace(sound, **changes)) == ()


def test_a_gap_that_is_not_a_number_fails(sound: DoctorResult) -> None:
    test = SelfTest("cpu", 6, 0.0, float("nan"), 0.0, 1e-10, 0.1)
    (found,) = judge(replace(sound, self_test=(test,)))
    assert found.code == "self-test-failed"


def test_control_sequences_of_variables_are_spelled_out(sound: DoctorResult) -> None:
    setting = Setting("X\x1b[2J", "1", "environment", "FROMAGE_DIAG_X\x1b[2J", False, "none", True)
    (found,) = judge(replace(sound, configuration=(setting,)))
    assert "\x1b" not in found.message
