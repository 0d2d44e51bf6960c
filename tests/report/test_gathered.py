from collections.abc import Callable
from typing import Any

from fromage_cli.report.gathered import Gathered

Make = Callable[..., Any]


def test_the_answer_of_check_stands_for_those_it_asked(make: Make) -> None:
    check = make("check", {"results": {"state": {"layers": []}, "norms": 3}}, 7)
    found = Gathered([check, make("state", {"x": 1}, 3), make("state", {"x": 2}, None)])
    assert [(one.command, one.step) for one in found.answered] == [
        ("state", None), ("state", 3), ("check", 7), ("state", 7)]  # fmt: skip
    assert [one.label for one in found.along("state")] == ["step-None", "3", "7"]
    assert found.last("state") == {"layers": []} and found.last("norms") is None


def test_a_checkpoint_that_was_asked_twice_counts_once(make: Make) -> None:
    found = Gathered([make("state", {"x": 1}), make("state", {"x": 2})])
    assert [one.result for one in found.along("state")] == [{"x": 2}]


def test_a_checkpoint_may_be_named_by_its_whole_path_or_by_the_end_of_it(make: Make) -> None:
    def about(place: str, x: int) -> Any:
        envelope = make("state", {"x": x})
        return envelope | {"checkpoints": [{**envelope["checkpoints"][0], "path": place}]}

    places = ("/data/other/step-3", "un/step-3", "/data/run/step-3", "./run/step-3", "run/step-3")
    found = Gathered([about(place, number) for number, place in enumerate(places)])
    assert [one.result for one in found.along("state")] == [{"x": 4}]
    alike = [one.place for one in found.answered if one.is_of_checkpoint(found.answered[-1])]
    assert alike == ["/data/run/step-3", "./run/step-3", "run/step-3"]


def test_findings_are_in_the_order_of_their_severity(make: Make) -> None:
    def told(code: str, severity: str, layer: str | None = None) -> dict[str, Any]:
        return {"code": code, "severity": severity, "message": code, "layer": layer, "value": "x", "hint": None}

    first = make("state", {}, findings=[told("a", "info"), told("b", "warn", "w"), {"code": 3}, told("d", "odd")])
    second = make("norms", {}, findings=[told("b", "warn", "w"), told("b", "warn", "v"), told("c", "fail")])
    found = Gathered([first, second]).findings
    assert [(one.code, one.layer) for one in found] == [("c", None), ("b", "w"), ("b", "v"), ("a", None)]
    earlier = make("state", {}, 1, findings=[told("b", "fail", "w"), told("e", "info")])
    later = Gathered([earlier, first]).findings
    assert [(one.message, one.severity) for one in later] == [("b", "warn"), ("a", "info"), ("e (step 1)", "info")]
    assert found[0].value is None and found[0].hint == ""
