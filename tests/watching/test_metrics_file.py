"""The file of metrics: what it tells of a line of the log, and which files it replaces."""

from pathlib import Path
from typing import Any

import pytest

from fromage_cli.errors import InputError
from fromage_cli.watching.metrics_file import refuse_foreign, write_metrics

FINDING = {"code": "x-y", "severity": "warn", "layer": "w", "message": "hot", "value": 2.0, "limit": 1.0, "hint": ""}


def record(**others: Any) -> dict[str, Any]:
    told = {
        "path": "runs/first/step-7.pt",
        "exit_code": 0,
        "tool": {"seconds": 2.5},
        "settings": {"fail_on": "fail"},
        "checkpoints": [
            {"path": "runs/first/step-7.pt", "format": "torch", "step": 7, "parameters": 9, "stripped": []}
        ],
        "result": {"numbers": [{"command": "sharpness", "name": "ratio", "value": 1.5, "unit": "×"}]},
        "findings": [FINDING],
    }
    return told | others


def samples(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_the_last_verdict_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "run.prom"
    labels = 'command="watch",run="first"'
    for step in (6, 7):
        told = record()
        told["checkpoints"][0]["step"] = step
        write_metrics(path, told)
        refuse_foreign(path)
    found = samples(path)
    assert found[f"fromage_diag_checkpoint_step{{{labels}}}"] == "7"
    assert found[f"fromage_diag_verdict{{{labels}}}"] == "1"
    assert found[f'fromage_diag_finding{{{labels},severity="warn",code="x-y",layer="w"}}'] == "1"
    assert found[f'fromage_diag_value{{{labels},name="sharpness ratio",unit="×"}}'] == "1.5"


def test_what_was_not_judged_has_its_exit_code_and_no_verdict(tmp_path: Path) -> None:
    write_metrics(tmp_path / "run.prom", record(result=None, exit_code=3, error={"message": "cut off"}, findings=[]))
    found = samples(tmp_path / "run.prom")
    assert found['fromage_diag_exit_code{command="watch",run="first"}'] == "3"
    assert not any("verdict" in name for name in found)


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "empty.prom").touch()
    for name in ("notes.txt", "."):
        with pytest.raises(InputError):
            refuse_foreign(tmp_path / name)
    for name in ("none.prom", "empty.prom"):
        refuse_foreign(tmp_path / name)
