"""An earlier answer beside this one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.diagnostics.check.baseline import compare, read_baseline
from fromage_cli.diagnostics.check.result import Change, Number
from fromage_cli.errors import InputError
from fromage_cli.findings import Finding

OLD = Finding("a-far", "warn", "far", layer="w", value=12.0, limit=6.0)


def told(*findings: dict[str, Any], numbers: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    result = {"verdict": "look", "numbers": [*numbers]}
    return {"command": "check", "result": result, "findings": [*findings], "checkpoints": [{"step": 3}, {"step": 7}]}


def as_json(finding: Finding, **others: Any) -> dict[str, Any]:
    return {"code": finding.code, "layer": finding.layer, "severity": finding.severity} | others


def test_what_is_known_is_for_information_and_what_is_new_or_worse_is_not() -> None:
    new, failed = Finding("b-new", "warn", "new"), Finding("c-failed", "fail", "failed")
    before = told(
        as_json(OLD, value=11.5, limit=6.0), as_json(failed, severity="warn"), {"code": "d-gone", "severity": "warn"}
    )
    comparison, findings = compare(before, Path("b.json"), (failed, OLD, new), ())
    assert (comparison.step, comparison.verdict, comparison.path) == (7, "look", "b.json")
    assert (comparison.new, comparison.known, comparison.gone) == (("c-failed", "b-new"), ("a-far",), ("d-gone",))
    assert [one.severity for one in findings] == ["fail", "info", "warn"]


@pytest.mark.parametrize(("value", "known"), [(12.0, True), (10.0, False), (None, True)])
def test_much_further_beyond_the_limit_is_not_known(value: float | None, known: bool) -> None:
    comparison, _ = compare(told(as_json(OLD, value=value, limit=6.0)), Path("b"), (OLD,), ())
    assert bool(comparison.known) is known


def test_numbers_that_changed_by_half_or_their_sign() -> None:
    values = {
        "grew": (1.0, 2.0),
        "same": (1.0, 1.2),
        "turned": (1.0, -1.0),
        "from zero": (0.0, 1.0),
        "fell": (9.0, 1.0),
    }
    numbers = tuple({"command": "norms", "name": name, "value": then} for name, (then, _) in values.items())
    now = [Number("norms", name, value, "") for name, (_, value) in values.items()]
    comparison, _ = compare(told(numbers=numbers), Path("b"), (), [*now, Number("norms", "new", 1.0, "")])
    assert [one.name for one in comparison.changes] == ["turned", "from zero", "fell", "grew"]
    assert comparison.changes[-1] == Change("norms", "grew", 1.0, 2.0)


ODD = (
    {"findings": [{"code": ["x"], "severity": "warn"}]},
    {"findings": [{"severity": "warn"}]},
    {"findings": [{"code": "x", "severity": "grave"}]},
    {"findings": [{"code": "x", "severity": "warn", "value": 10**400}]},
    {"result": {"verdict": "go", "numbers": [{"command": "norms", "name": {}, "value": 1.0}]}},
    {"result": {"verdict": "go", "numbers": [{"command": "norms", "name": "x", "value": "1"}]}},
    {"result": {"verdict": "fine", "numbers": []}},
    {"checkpoints": [3]},
)


@pytest.mark.parametrize("odd", ODD)
def test_an_answer_with_odd_parts_is_refused(tmp_path: Path, odd: dict[str, Any]) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(told() | odd))
    with pytest.raises(InputError, match="no answer of check"):
        read_baseline(path)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            read_baseline(place)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"command": "norms", "result": {}}), "[" * 100_000])
def test_what_is_no_answer_of_check_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"b\.json") as caught:
        read_baseline(path)
    assert "fromage-diag check" in caught.value.hint
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(tmp_path / "none.json")


def test_an_answer_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps(told(as_json(OLD))))
    assert read_baseline(path)["checkpoints"][-1]["step"] == 7
