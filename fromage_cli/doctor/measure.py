"""From the environment of this process to a DoctorResult; a part that fails is said, and the others go on."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fromage_cli import __version__
from fromage_cli.doctor import configuration, dependencies, job, machine
from fromage_cli.doctor.result import DoctorResult
from fromage_cli.errors import FromageError, ResourceError, words_of
from fromage_cli.missing import Interrupted, Missing, Why
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.terminal.flags import CommandFlags
from fromage_cli.terminal.project import ProjectConfiguration


def measure(
    flags: CommandFlags, environment: Mapping[str, str], directory: Path, budget: Budget
) -> DoctorResult | Interrupted[DoctorResult]:
    """Looks at every part of the environment, those that cost nothing first.

    `flags`: of all commands; `directory`: where the project's configuration is looked for.
    """
    found = configuration.find_configuration(directory)
    readable = found if isinstance(found, ProjectConfiguration) else ProjectConfiguration()
    versions = dependencies.versions()
    absent = {one.name: one.version for one in versions if isinstance(one.version, Missing)}
    result = DoctorResult(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        tool=__version__,
        versions=versions,
        extras=dependencies.extras(),
        processors=machine.processors(with_torch="torch" not in absent),
        memory=machine.memory(),
        job=job.job(environment),
        terminal=machine.terminal(),
        temporary_directory=machine.temporary_directory(),
        project=configuration.project(readable, directory),
        configuration=configuration.settings(readable, environment, flags),
        faults=configuration.faults(found, environment, flags),
    )
    try:
        for part, (needed, look) in _parts(result, budget).items():
            budget.check()
            lacking = [name for name in needed if name in absent]
            if lacking:
                why = Missing(Why.NOT_INSTALLED, f"{lacking[0]} cannot be imported")
                result = _without(result, part, why)
                continue
            try:
                result = replace(result, **{part: look()})
            except ResourceError:
                raise
            except Exception as error:  # what is broken here may fail in any way
                words = (
                    error.message if isinstance(error, FromageError) else f"{type(error).__name__}: {words_of(error)}"
                )
                reason = words.strip().splitlines()[0][:200].rstrip(".")
                result = _without(result, part, Missing(Why.NOT_EVALUATED, reason))
                result = replace(result, failures=(*result.failures, f"{part.replace('_', '-')}: {reason}"))
    except ResourceError as limit:
        return Interrupted(result, limit)
    return result


def _parts(result: DoctorResult, budget: Budget) -> dict[str, tuple[tuple[str, ...], Callable[[], Any]]]:
    """What takes torch, by field: the packages that it takes, and how it is found out."""

    def attention() -> Any:
        from fromage_cli.doctor.attention import attention

        return tuple(one for device in _computing() for one in attention(device))

    def self_test() -> Any:
        from fromage_cli.doctor.self_test import self_test

        return tuple(self_test(device, budget) for device in _computing())

    return {
        "devices": (("torch",), machine.devices),
        "temporary_directory": (
            ("torch", "safetensors"),
            lambda: machine.write_and_read(result.temporary_directory),
        ),
        "attention": (("torch", "numpy"), attention),
        "self_test": (("torch", "numpy", "safetensors"), self_test),
    }


def _computing() -> list[Any]:
    """The devices that the program computes on: the processor, and the first GPU where there is one."""
    import torch

    return [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]


def _without(result: DoctorResult, part: str, reason: Missing) -> DoctorResult:
    """The result in which a part is missing."""
    if part == "temporary_directory":
        return replace(result, temporary_directory=replace(result.temporary_directory, written=reason))
    changes: dict[str, Any] = {part: reason}
    return replace(result, **changes)
