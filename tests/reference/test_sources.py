import ast

import pytest

from fromage_cli.diagnostics.check import forward_findings
from fromage_cli.missing import Why
from fromage_cli.reference.sources import constant, definition, unwrapped
from fromage_cli.terminal.answer import Provenance


def test_the_fields_of_a_class_have_the_line_below_them() -> None:
    found = definition("terminal.answer", "Provenance")
    assert found is not None and found.words == Provenance.__doc__
    device, dtype = list(found.members)[:2]
    assert (device.name, device.words) == ("device", "`cpu`, `cuda:0` …")
    assert device.type is not None and ast.unparse(device.type) == "str" and device.value is None
    assert (dtype.name, dtype.words) == ("dtype", "Type of the weights while computing.")


def test_the_members_of_an_enumeration_have_theirs() -> None:
    found = definition("missing", "Why")
    assert found is not None and found.bases == ("StrEnum",)
    assert [ast.literal_eval(member.value) for member in found.members if member.value is not None] == list(Why)
    assert next(iter(found.members)).words == "The command line did not ask for it."


def test_a_name_is_followed_to_where_it_is_defined() -> None:
    """Through an import, and through one that only a reader of types sees."""
    found = definition("diagnostics.check.result", "Missing")
    assert found is not None and (found.module, found.name) == ("missing", "Missing")
    found = definition("diagnostics.check.result", "ForwardPass")
    assert found is not None and found.module == "probes.forward_pass.measure"
    alias = definition("diagnostics.check.result", "Verdict")
    assert alias is not None and ast.unparse(alias.node) == "Literal['go', 'look', 'stop']" and not list(alias.members)
    assert definition("diagnostics.check.result", "Mapping") is None


def test_a_constant_is_the_one_that_is_used() -> None:
    for name in ("STALE", "GONE", "MOSTLY_GONE"):
        assert constant("diagnostics.check.forward_findings", name) == getattr(forward_findings, name)
    with pytest.raises(ValueError, match="NOWHERE"):
        constant("diagnostics.check.forward_findings", "NOWHERE")
    with pytest.raises(ValueError, match="malformed"):
        constant("diagnostics.distance.findings", "TURNED")  # computed from math.pi


def test_paragraphs_stay_apart() -> None:
    assert unwrapped("One\n    line.\n\n    And another.") == "One line.\nAnd another."
