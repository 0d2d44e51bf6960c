import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.errors import NumericalError
from fromage_cli.findings import Finding
from fromage_cli.missing import Missing, Why
from fromage_cli.terminal.answer import Answer, CheckpointRecord, Provenance
from fromage_cli.terminal.envelope import Circumstances, answer_envelope, dumps, error_envelope, status
from fromage_cli.terminal.plain import plain

KEYS = ("schema", "command", "status", "tool", "settings", "checkpoints", "problem", "result", "findings", "nonfinite")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def refuse(constant):
    raise AssertionError(f"{constant} is not strict JSON")


def look_up(document, path):
    for member, quoted, index in re.findall(r'(?:^|\.)([^.\[\]"]+)|\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]', path, re.S):
        key = member or re.sub(r"\\(.)", r"\1", quoted, flags=re.S)
        document = document[int(index) if index else key]
    return document


def nonfinite_count(value):
    if isinstance(value, float):
        return int(not math.isfinite(value))
    if isinstance(value, dict):
        return sum(map(nonfinite_count, value.values()))
    return sum(map(nonfinite_count, value)) if isinstance(value, list | tuple) else 0


def answer(result, **rest):
    return Answer(result, page=lambda style: "", **rest)


@given(values)
def test_any_result_is_strict_json_whose_nonfinite_paths_lead_to_nulls(value):
    text = dumps(answer_envelope(answer(value), Circumstances("breakdown", {}, 1.0)))
    document = json.loads(text, parse_constant=refuse)
    assert text.isascii()
    assert len(document["nonfinite"]) == nonfinite_count(value)
    for entry in document["nonfinite"]:
        assert look_up(document, entry["path"]) is None
        assert entry["value"] in ("nan", "inf", "-inf")


@dataclass(frozen=True)
class Layer:
    name: str
    breakdown: tuple[float, ...]
    path: Path = Path("a/b")


def test_paths_and_kinds_of_what_is_not_finite():
    found = []
    layers = [Layer("a", (1.0,)), Layer("b", (1.0, math.nan, -math.inf))]
    assert plain({"layers": layers, "limit": math.inf}, "result", found) == {
        "layers": [
            {"name": "a", "breakdown": [1.0], "path": "a/b"},
            {"name": "b", "breakdown": [1.0, None, None], "path": "a/b"},
        ],
        "limit": None,
    }
    assert found == [
        {"path": "result.layers[1].breakdown[1]", "value": "nan"},
        {"path": "result.layers[1].breakdown[2]", "value": "-inf"},
        {"path": "result.limit", "value": "inf"},
    ]


def test_numpy_scalars_become_plain_numbers():
    assert plain([np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True)], "", []) == [0.5, 0.5, 3, True]


def test_an_answer_fills_every_key():
    envelope = answer_envelope(
        answer(
            {"a": 1},
            settings={"mode": "eval"},
            checkpoints=(CheckpointRecord("x.pt", "torch", None, 3, ("module.",)),),
            provenance=Provenance("cpu", "float64", 3.5, 1, 2),
            findings=(Finding("c", "warn", "m"),),
        ),
        Circumstances("breakdown", {"mode": "auto", "seed": 0}, 2.5),
    )
    assert tuple(envelope) == KEYS
    assert envelope["schema"] == "fromage-diag/1"
    assert envelope["settings"] == {"mode": "eval", "seed": 0}
    assert envelope["checkpoints"] == [
        {"path": "x.pt", "format": "torch", "step": None, "parameters": 3, "stripped": ["module."]}
    ]
    tool = envelope["tool"]
    assert set(tool) == {
        "version",
        "torch",
        "device",
        "dtype",
        "seconds",
        "gradient_evaluations",
        "forward_evaluations",
        "hvp_evaluations",
        "peak_memory",
        "peak_device_memory",
        "ranks",
        "missing",
    }
    assert (tool["device"], tool["dtype"], tool["seconds"], tool["gradient_evaluations"]) == (
        "cpu",
        "float64",
        2.5,
        3.5,
    )
    assert tool["peak_memory"] > 1e6 and tool["ranks"] == 1
    assert tool["peak_device_memory"] is None
    assert tool["missing"] == {"peak_device_memory": {"code": "not-defined", "reason": "no accelerator was used"}}
    assert envelope["findings"][0] == {
        "code": "c",
        "severity": "warn",
        "layer": None,
        "message": "m",
        "value": None,
        "limit": None,
        "hint": "",
    }


def test_an_error_has_the_same_keys():
    envelope = error_envelope(NumericalError("m", "h", ["d"]), Circumstances("breakdown", {}, 1.0))
    assert set(envelope) == {*KEYS, "error"}
    assert envelope["status"] == "error"
    assert envelope["error"] == {"code": "numerics", "message": "m", "hint": "h"}


def test_status_is_the_worst_severity():
    def with_findings(*severities, error=None):
        return answer(None, findings=tuple(Finding("c", severity, "m") for severity in severities), error=error)

    assert status(with_findings()) == "ok"
    assert status(with_findings("info")) == "ok"
    assert status(with_findings("warn", "info")) == "warn"
    assert status(with_findings("warn", "fail", "info")) == "fail"
    assert status(with_findings("info", error=NumericalError("m"))) == "error"


def test_what_is_missing_is_null_and_the_object_that_holds_it_says_why():
    why = Missing(Why.NO_MODEL, "no model was given")

    @dataclass(frozen=True)
    class Layer:
        norm: float
        trust: float | Missing
        rates: tuple[float | Missing, ...]

    reason = {"code": "no-model", "reason": "no model was given"}
    found = plain({"layers": [Layer(1.0, 2.0, (3.0,)), Layer(1.0, why, (3.0, why))], "bound": why}, "", [])
    assert found == {
        "layers": [
            {"norm": 1.0, "trust": 2.0, "rates": [3.0]},
            {"norm": 1.0, "trust": None, "rates": [3.0, None], "missing": {"trust": reason, "rates": reason}},
        ],
        "bound": None,
        "missing": {"bound": reason},
    }


def test_the_largest_memory_of_several_ranks_is_told() -> None:
    told = Provenance("cuda:0", "float32", peak_memory=10**13, peak_device_memory=3)
    tool = answer_envelope(Answer({}, page=lambda style: "", provenance=told), Circumstances())["tool"]
    assert (tool["peak_memory"], tool["peak_device_memory"]) == (10**13, 3)
    assert "missing" not in tool
