"""What tests of the doctor share: a result without a fault, and the program called in a directory of its own."""

import os
from collections.abc import Callable

import pytest

from fromage_cli.cli import build_program
from fromage_cli.doctor.result import (
    OWN,
    Attention,
    DoctorResult,
    Extra,
    Job,
    Memory,
    Processors,
    SelfTest,
    TemporaryDirectory,
    Terminal,
    Version,
)
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.flags import CommandFlags

NAMES = ("FROMAGE_DIAG_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "CUDA_VISIBLE_DEVICES")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable that this machine sets plays a part."""
    for name in os.environ:
        if name.startswith(NAMES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def flags() -> CommandFlags:
    """Those of the whole program."""
    return CommandFlags(build_program())


@pytest.fixture
def sound() -> DoctorResult:
    """A machine on which everything works."""
    none = Missing(Why.NOT_DEFINED, "there is no limit")
    return DoctorResult(
        python="3.12.1",
        platform="Linux x86_64",
        tool="0.1.0",
        versions=(Version("torch", "2.13.0", "2.10", True), Version("numpy", "2.4.6", "1.26", True)),
        extras=(Extra("plot", "--plot", Missing(Why.NOT_INSTALLED, "it is not installed"), "pip install plot"),),
        processors=Processors(4, 8, 4, "4"),
        memory=Memory(16_000_000_000, 8_000_000_000, none),
        job=Job(None, 0, 1, "no batch job: this process computes alone", ()),
        terminal=Terminal(True, 80, True, "utf-8", False),
        temporary_directory=TemporaryDirectory("/tmp", 5_000_000_000, 4, 4),
        project=None,
        configuration=(),
        faults=(),
        devices=(),
        attention=(Attention("cpu", OWN, "right", 4e-16), Attention("cpu", "flash", "refused", none)),
        self_test=(SelfTest("cpu", 6, 1e-16, 2e-16, 0.0, 1e-10, 0.2),),
    )
