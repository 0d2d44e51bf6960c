"""A few runs of the study: no finding on healthy checkpoints, and each fault has the finding that must name it."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
RUNS = ["sgd-nesterov", "sgd-fp16-scaler", "adam-amsgrad", "adam-one-cycle", "adamw-fused", "adamw-resumed", "lion"]
SAVED = (1, 2, 20, 39, 40)


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """benchmarks/state_study.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("state_study")


@pytest.mark.parametrize("name", RUNS)
def test_healthy_runs_have_no_warning(name: str, study: ModuleType, tmp_path: Path) -> None:
    whole = next(recipe for recipe in study.HEALTHY if recipe.name == name)
    recipe = replace(whole, saved=SAVED, length=40, resumed=20 if whole.resumed else None)
    line = study.healthy(name, study.plain(recipe, tmp_path, None))
    assert len(line["single"]) == 5 and len(line["pairs"]) == 4
    assert [one for found in (*line["single"], *line["pairs"], line["series"]) for one in found if warns(one)] == []


def warns(finding: dict[str, str | None]) -> bool:
    return finding["severity"] != "info"


def test_every_fault_is_found(study: ModuleType, tmp_path: Path) -> None:
    """Beside the checkpoints before. A larger second moment is one that gradients can have made."""
    steps, settings = (10, 20, 30), {"betas": (0.9, 0.95)}
    recipe = study.Recipe("", "mlp", "adamw", 2e-3, settings, {"depth": 4}, schedule="cosine", length=50, saved=steps)
    study.plain(recipe, tmp_path / "clean", None)
    study.plain(replace(recipe, seed=1), tmp_path / "other", None)
    lines = list(study.faulty(recipe, "close", steps, tmp_path, None))
    assert len(lines) == 1 + len(study.FAULTS) + 1 + len(study.RESUMPTIONS)
    clean = next(line for line in lines if line["fault"] == "none")
    assert not [one for one in clean["series"] if warns(one)]
    told = {line["fault"]: {one["code"] for one in line["series"] if warns(one)} & {*line["named"]} for line in lines}
    assert [fault for fault, codes in told.items() if not codes] == ["none", "entry of v times 256"]
