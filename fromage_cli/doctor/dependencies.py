"""What is installed: the packages that the program runs on, and those that only some options need."""

import importlib
import importlib.util
import re
from collections.abc import Mapping
from importlib import metadata

from fromage_cli import stopping
from fromage_cli.doctor.result import Extra, Version
from fromage_cli.errors import ResourceError, words_of
from fromage_cli.missing import Missing, Why

NEEDED = {
    "torch": ("torch", "2.10", "Tensor"),
    "numpy": ("numpy", "1.26", "ndarray"),
    "safetensors": ("safetensors", "0.7", "safe_open"),
    "typer": ("typer", "0.26", "Typer"),
    "rich": ("rich", "13.8", "get_console"),
}
"""By package: the module, the oldest version, and a name that the module must have."""
EXTRAS = {
    "hf": ("--model hf, and the callback of its Trainer", {"transformers": "transformers"}),
    "plot": ("--plot", {"matplotlib": "matplotlib"}),
    "remote": ("checkpoints behind a URL", {"fsspec": "fsspec"}),
    "tensorboard": ("watch --tensorboard", {"tensorboard": "tensorboard"}),
    "mlflow": ("watch --mlflow", {"mlflow": "mlflow-skinny"}),
    "lightning": (
        "the callback of Lightning",
        {"lightning": "lightning", "pytorch_lightning": "pytorch-lightning"},
    ),
}
"""By extra: what needs it, and its package by the module that it brings; of two, one is enough."""
ABSENT = Missing(Why.NOT_INSTALLED, "it is not installed")


def versions() -> tuple[Version, ...]:
    """The packages that the program runs on; each is imported to see whether that works.

    An import that goes on beyond a limit of time raises ResourceError.
    """
    before = stopping.in_their_code(True)
    try:
        return tuple(_version(name, *NEEDED[name]) for name in NEEDED)
    finally:
        stopping.in_their_code(before)


def _version(package: str, module: str, least: str, needed: str) -> Version:
    try:
        imported = importlib.import_module(module)
        if not hasattr(imported, needed):
            raise ImportError(f"{imported!r} is another module of that name")
        found = getattr(imported, "__version__", None) or metadata.version(package)
    except ResourceError:
        raise
    except ModuleNotFoundError as error:
        missing = ABSENT if error.name == module else Missing(Why.NOT_INSTALLED, words_of(error))
        return Version(package, missing, least, False)
    except Exception as error:  # a library that does not load fails in any way
        lines = words_of(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
        return Version(package, Missing(Why.NOT_INSTALLED, reason), least, False)
    return Version(package, str(found), least, _numbers(str(found)) >= _numbers(least))


def _numbers(version: str) -> list[int]:
    """The numbers that a version begins with: `2.13.0+cpu` → 2, 13, 0."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in release[0].split(".")] if release is not None else []


def extras() -> tuple[Extra, ...]:
    """The packages that only some options need; none is imported."""
    return tuple(
        Extra(name, purpose, _installed(packages), f"python -m pip install 'fromage-diag[{name}]'")
        for name, (purpose, packages) in EXTRAS.items()
    )


def _installed(packages: Mapping[str, str]) -> str | Missing:
    """The version of the first of the packages whose module is there."""
    for module, package in packages.items():
        if importlib.util.find_spec(module) is not None:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:  # a directory of that name, or another build of it
                return Missing(Why.NOT_INSTALLED, f"{module} is there, but not as the package {package}")
    return ABSENT
