"""Rules of the user: what they change, add and silence, and what is none."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fromage_cli.diagnostics.check.rules import (
    FALSE_ALARMS,
    HEALTHY_RUNS,
    QUANTITIES,
    RULES,
    UserRule,
    apply,
    quantity_values,
    read_rules,
)
from fromage_cli.errors import UsageError
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why

SOURCES = Path(__file__).parents[3] / "fromage_cli"


@dataclass
class Layer:
    name: str
    norm: float | Missing
    norms: tuple[float, ...] = ()


@dataclass
class Head:
    logit: float


@dataclass
class Call:
    module: str
    heads: tuple[Head, ...]


@dataclass
class Result:
    ratio: float
    layers: tuple[Layer, ...] = ()
    calls: tuple[Call, ...] = (Call("attention", (Head(3.0), Head(7.0))),)


RESULTS = {
    "sharpness": Result(1.5, (Layer("a", 2.0, (1.0, 3.0)), Layer("b", Missing(Why.NOT_DEFINED, "none"), (4.0,)))),
    "check": {"out_of_line": ()},
}
ABOVE = Finding("above-threshold", "warn", "too high", value=1.5, limit=1.0, hint="Lower it.")
FAR = [Finding("norm-far-from-first", "warn", "far", layer=name, value=8.0, limit=6.0) for name in ("enc.a", "dec.b")]


def rule(**values: Any) -> UserRule:
    return read_rules([values])[0]


def test_every_code_that_a_command_may_find_has_its_rule() -> None:
    asked = [
        path for path in SOURCES.rglob("*.py") if not {"terminal", "rules.py", "bundle", "doctor"} & {*path.parts}
    ]  # not of a run
    written = "\n".join(path.read_text(encoding="utf-8") for path in asked)
    codes = re.findall(r'(?:code=|Finding\(\s*|about_names\(\s*)"([a-z]+(?:-[a-z]+)+)"', written)
    assert {*codes} <= {*RULES}
    assert [code for code in RULES if f'"{code}"' not in written] == []
    assert {*QUANTITIES} <= {*RULES}


def test_the_false_alarms_are_those_of_the_study() -> None:
    results = SOURCES.parent / "benchmarks" / "results"
    with (results / "early_warning_runs.csv").open(encoding="utf-8", newline="") as file:
        healthy = {row["run"] for row in csv.DictReader(file) if row["group"] == "healthy"}
    blamed: dict[str, set[str]] = {}
    with (results / "early_warning.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for code, severity, _ in (one.split(":", 2) for one in row["findings"].split()):
                if severity != "info" and row["run"] in healthy:
                    blamed.setdefault(code, set()).add(row["run"])
    assert {code: len(runs) for code, runs in blamed.items()} == FALSE_ALARMS
    assert len(healthy) == HEALTHY_RUNS


def test_a_rule_changes_the_severity_and_the_words() -> None:
    (changed,) = apply([rule(code="above-threshold", severity="fail", message="no", hint="Stop.")], [ABOVE], {})
    assert (changed.severity, changed.message, changed.hint, changed.value) == ("fail", "no", "Stop.", 1.5)
    assert apply([rule(code="above-threshold", severity="off")], [ABOVE, *FAR], {}) == FAR


def test_a_rule_may_speak_of_some_layers() -> None:
    assert apply([rule(code="norm-far-from-first", severity="off", layers=["enc.*"])], [ABOVE, *FAR], {}) == [
        ABOVE,
        FAR[1],
    ]
    silenced = rule(code="above-threshold", severity="off", layers="enc.*")
    assert apply([silenced], [ABOVE], {}) == [ABOVE]  # which is of the whole network


def test_a_limit_keeps_what_is_beyond_it() -> None:
    assert apply([rule(code="above-threshold", above=2.0)], [ABOVE], RESULTS) == []
    assert apply([rule(code="above-threshold", above=1.2)], [ABOVE, *FAR], RESULTS) == [ABOVE, *FAR]
    assert apply([rule(code="above-threshold", above=0.1)], [], RESULTS) == []  # where the command has its reasons


def test_a_new_rule_names_a_quantity() -> None:
    new = rule(code="norm-small", quantity="sharpness.layers.norms", below=3.5, severity="fail", hint="Look.")
    (found,) = apply([new], [], RESULTS)
    assert (found.code, found.layer, found.severity, found.value, found.hint) == (
        "norm-small",
        "a",
        "fail",
        3.0,
        "Look.",
    )
    assert apply([rule(code="x", quantity="norms.layers.norm", above=0)], [], RESULTS) == []  # which did not look
    (every,) = apply([rule(code="x", quantity="sharpness.calls.heads.logit", above=1)], [], RESULTS)
    assert (every.layer, every.value, every.severity) == ("attention", 7.0, "warn")
    assert every.message == "sharpness.calls.heads.logit is 7, above your limit 1"


def test_quantities() -> None:
    assert quantity_values(RESULTS, "sharpness.ratio") == [(None, 1.5)]
    assert quantity_values(RESULTS, "sharpness.layers.norm") == [("a", 2.0)]
    assert quantity_values(RESULTS, "sharpness.layers.norms") == [("a", 3.0), ("b", 4.0)]
    assert quantity_values(RESULTS, "check.out_of_line.factor") == []
    for path in ("sharpness", "sharpness.layers", "sharpness.layers.name"):
        with pytest.raises(UsageError, match="is no number"):
            quantity_values(RESULTS, path)
    with pytest.raises(UsageError, match="no 'ratoi'") as caught:
        quantity_values(RESULTS, "sharpness.ratoi")
    assert "ratio" in caught.value.hint


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"code": "above-treshold", "severity": "off"}, "above-threshold"),
        ({"code": "above-threshold", "severty": "off"}, "severity"),
        ({"code": "above-threshold", "severity": "error"}, "fail"),
        ({"code": "above-threshold", "above": "2"}, "number"),
        ({"code": "above-threshold", "above": True}, "number"),
        ({"code": "layer-forgotten", "above": 2}, "Leave"),
        ({"code": "mine", "quantity": "sharpness.ratio"}, "above or below"),
        ({"code": "mine", "quantity": 3, "above": 1}, "quotes"),
        ({"code": "mine", "quantity": "sharpnes.ratio", "above": 1}, "sharpness"),
        ({"code": "mine", "quantity": "sharpness.ratio", "above": float("nan")}, "number"),
        ({"code": "above-threshold", "quantity": "sharpness.ratio", "above": 1}, "another code"),
        ({"code": "", "severity": "off"}, "code ="),
        ({"code": "above-threshold", "above": 2, "below": 1}, "two rules"),
        ({"code": "above-threshold", "layers": [1]}, "patterns"),
        ({"severity": "off"}, "code ="),
        ("above-threshold", "table"),
    ],
)
def test_what_is_no_rule_says_what_to_write(entry: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_rules([entry])
    assert said in caught.value.hint
