import json
import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fromage_cli.diagnostics import COMMANDS
from fromage_cli.diagnostics.sharpness.result import HessianEigenvalue
from fromage_cli.errors import InputError
from fromage_cli.missing import Missing, Why
from fromage_cli.reference.schema import ROOTS, Definitions, defined, in_json, schema_of, schema_of_all
from fromage_cli.terminal.answer import Answer, Estimate, estimate_answer
from fromage_cli.terminal.envelope import Circumstances, answer_envelope, error_envelope

VALUE = {"value": 4.0, "residual": 1e-6}


def definition_of(name: str) -> dict[str, Any]:
    builder = Definitions()
    builder.reference("diagnostics.sharpness.result", name)
    return builder.sorted()


def fits(schema: dict[str, Any], document: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(document))


def test_every_command_of_the_program_has_one() -> None:
    from fromage_cli.own_commands import OWN_COMMANDS

    assert set(ROOTS) == set(COMMANDS | OWN_COMMANDS)


@pytest.mark.parametrize("command", ROOTS)
def test_it_is_a_schema_that_names_its_version(command: str) -> None:
    schema = schema_of(command)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].startswith(f"urn:schema:fromage-diag/1/{command}:")
    every = schema_of_all()
    assert f"command.{command}" in every["$defs"] and {"$ref": f"#/$defs/command.{command}"} in every["anyOf"]


def test_a_class_becomes_its_fields_with_their_words() -> None:
    schema = definition_of("HessianEigenvalue")["sharpness.HessianEigenvalue"]
    assert schema["description"] == HessianEigenvalue.__doc__
    assert schema["required"] == ["value", "residual"]
    assert schema["properties"]["residual"] == {
        "type": ["number", "null"],
        "description": "||H v - value v||, ||v|| = 1: an eigenvalue lies within it.",
    }
    assert fits(schema, VALUE) and fits(schema, VALUE | {"value": None})  # not finite
    assert not fits(schema, VALUE | {"value": "4"}) and not fits(schema, {"value": 4.0})


def test_words_name_values_as_json_does() -> None:
    found = Definitions().of_class(defined("diagnostics.check.result", "Comparison"))["properties"]["step"]
    assert found == {"type": ["integer", "null"], "description": "Of its last checkpoint."}
    assert (
        in_json("None without a bias; True or False. Nonetheless") == "null without a bias; true or false. Nonetheless"
    )
    assert "None" not in json.dumps(schema_of_all())


def test_what_may_be_missing_is_null_beside_a_reason() -> None:
    schema = definition_of("LayerBlock")["sharpness.LayerBlock"]
    reasons = schema["properties"]["missing"]
    assert list(reasons["properties"]) == ["eigenvalue", "residual"]
    assert reasons["properties"]["residual"]["properties"]["code"]["enum"] == [why.value for why in Why]
    block: dict[str, Any] = {"name": "w", "kind": "Linear", "shape": [2, 3], "parameters": 6}
    block |= {"eigenvalue": None, "residual": None}
    assert fits(schema, block | {"missing": {"residual": {"code": "limit-reached", "reason": "stopped"}}})
    assert not fits(schema, block | {"missing": {"residual": {"code": "bad-luck", "reason": "stopped"}}})
    assert not fits(schema, block | {"shape": [2.5]}) and not fits(schema, block | {"parameters": None})


@pytest.mark.parametrize(
    ("module", "name", "field", "expected"),
    [
        ("diagnostics.check.result", "CheckResult", "verdict", {"enum": ["go", "look", "stop"]}),
        ("diagnostics.state.result", "ReplicaState", "files", {"type": "array", "items": {"type": "string"}}),
        ("diagnostics.suggest_lr.result", "Estimate", "assumption", {"type": "string"}),
        ("diagnostics.inspect.result", "InspectResult", "also_holds", {"type": "object"}),
        ("diagnostics.inspect.result", "GroupResult", "momentum", {"type": ["number", "null"]}),
        (
            "bundle.contents",
            "BundleContents",
            "written_by",
            {"type": "object", "additionalProperties": {"type": "string"}},
        ),
    ],
)
def test_a_type_has_its_form_in_json(module: str, name: str, field: str, expected: dict[str, Any]) -> None:
    found = Definitions().of_class(defined(module, name))["properties"][field]
    assert {key: value for key, value in found.items() if key != "description"} == expected


def test_a_pair_has_two_items() -> None:
    betas = Definitions().of_class(defined("diagnostics.inspect.result", "GroupResult"))["properties"]["betas"]
    assert fits(betas, [0.9, 0.999]) and fits(betas, None)
    assert not fits(betas, [0.9]) and not fits(betas, [0.9, 0.99, 0.999])


def test_envelopes_of_errors_and_estimates_fit() -> None:
    estimate = answer_envelope(estimate_answer(Estimate(2.0, None, 0.5)), Circumstances("distance"))
    refused = error_envelope(InputError("gone."), Circumstances("distance"))
    for whole in (estimate, refused):
        assert fits(schema_of("distance"), whole) and fits(schema_of_all(), whole)
        assert not fits(schema_of("norms"), whole)  # another command's
        assert not fits(schema_of("distance"), {**whole, "status": "fine"})
    assert fits(schema_of_all(), error_envelope(InputError("gone."), Circumstances(None)))
    assert not fits(schema_of("distance"), {**refused, "error": {"code": "input"}})


def test_check_holds_the_results_of_other_commands() -> None:
    results = schema_of("check")["$defs"]["check.CheckResult"]["properties"]["results"]["properties"]
    assert set(results) == set(COMMANDS) - {"check"}
    assert results["sharpness"]["anyOf"][0] == {"$ref": "#/$defs/sharpness.SharpnessResult"}


def test_several_files_of_inspect_are_an_array_and_a_line_of_watch_says_when() -> None:
    whole = error_envelope(InputError("gone."), Circumstances("inspect"))
    assert fits(schema_of("inspect"), [whole, whole]) and not fits(schema_of("distance"), [whole])
    judged = error_envelope(InputError("gone."), Circumstances("check"))
    line = {"watched_at": "2026-01-01T00:00:00+00:00", "path": "a.pt", "step": 1, "content": "", "state": "s"}
    assert fits(schema_of("watch"), line | {"exit_code": 3} | judged)
    assert not fits(schema_of("watch"), line | judged) and not fits(schema_of("watch"), judged)


def test_the_hook_of_all_tests_refuses_a_key_that_the_schema_does_not_name() -> None:
    from tests.conftest import closed

    whole = answer_envelope(estimate_answer(Estimate(2.0, None, 0.5)), Circumstances("distance"))
    strict = Draft202012Validator(closed(deepcopy(schema_of("distance"))))
    assert strict.is_valid(whole) and not strict.is_valid({**whole, "more": 1})
    assert not strict.is_valid({**whole, "result": {"estimate": {**whole["result"]["estimate"], "more": 1}}})


def test_a_type_without_a_form_is_a_mistake_in_the_result() -> None:
    with pytest.raises(TypeError, match="Callable"):
        Definitions().of_class(defined("terminal.answer", "Answer"))


def test_no_result_is_imported() -> None:
    code = """
import sys
from fromage_cli.reference.schema import schema_of_all
schema_of_all()
assert not {"torch", "numpy", "fromage_cli.diagnostics.state.result"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_device_has_its_reason() -> None:
    whole = answer_envelope(Answer(None, page=lambda style: ""), Circumstances("distance"))
    reason = whole["tool"]["missing"]["peak_device_memory"]
    assert Missing(Why(reason["code"]), reason["reason"]).code is Why.NOT_DEFINED and fits(schema_of("distance"), whole)
