"""The words about copies."""

from dataclasses import replace

from fromage_cli.diagnostics.state.copies import OTHER_SHAPES
from fromage_cli.diagnostics.state.replicas import replica_facts, replica_findings
from fromage_cli.diagnostics.state.result import ReplicaState

SOUND = ReplicaState("w", "tensor", ("c/rank0.pt", "c/rank1.pt"), 12, 0, 0.0)


def test_nothing_is_said_without_copies() -> None:
    assert list(replica_findings(())) == replica_facts(()) == []
    assert replica_facts((replace(SOUND, kind="setting"),)) == []


def test_copies_that_agree_are_a_fact() -> None:
    assert list(replica_findings((SOUND,))) == []
    (fact,) = replica_facts((SOUND, replace(SOUND, name="b")))
    assert (fact.value, fact.words) == ("2 tensors", "are stored more than once; all copies agree")
    (fact,) = replica_facts((replace(SOUND, differ=3),))
    assert (fact.value, fact.words) == ("1 tensor", "is stored more than once; those of 1 differ")


def test_one_finding_for_each_kind() -> None:
    apart = replace(SOUND, differ=1200, largest=0.5)
    found = list(replica_findings((SOUND, apart, replace(apart, name="b"), replace(apart, kind="setting"))))
    assert [(one.code, one.severity) for one in found] == [("replicas-differ", "warn")] * 2
    assert found[0].message == "copies of 2 tensors differ in 2,400 entries: w, b"
    assert (found[0].value, found[0].layer, found[1].layer) == (2.0, None, "w")
    assert "Compare c/rank0.pt with c/rank1.pt." in found[0].hint
    (one,) = replica_findings((replace(SOUND, differ=OTHER_SHAPES, largest=OTHER_SHAPES),))
    assert one.message == "copies of 1 tensor differ in shape: w"
