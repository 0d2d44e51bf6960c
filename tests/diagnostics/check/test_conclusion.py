"""One verdict from what the commands answered: rules of the user come before the baseline."""

from pathlib import Path

from fromage_cli.diagnostics.check.conclusion import conclude
from fromage_cli.diagnostics.check.measure import Examination
from fromage_cli.diagnostics.check.result import NO_BASELINE, Comparison, Skipped
from fromage_cli.diagnostics.check.rules import read_rules
from fromage_cli.findings import Finding
from fromage_cli.terminal.answer import Answer

FAR, LOST = (Finding(code, "warn", "it is so", layer="w") for code in ("norm-far-from-first", "updates-lost"))


def examination() -> Examination:
    answers = {name: Answer(name, lambda style: "", findings=(one,)) for name, one in (("a", FAR), ("b", LOST))}
    return Examination(answers=answers, skipped=[Skipped("forward-pass", "No network is given.")])


def test_what_the_commands_found_is_the_verdict() -> None:
    result, findings, silenced = conclude(examination(), (), None)
    assert (result.verdict, findings, silenced, result.baseline) == ("look", (FAR, LOST), 0, NO_BASELINE)
    assert result.looked == ("a", "b") and result.results == {"a": "a", "b": "b"}


def test_silenced_findings_are_counted_and_the_baseline_sees_the_rest() -> None:
    rules = read_rules(
        [{"code": "norm-far-from-first", "severity": "off"}, {"code": "updates-lost", "severity": "fail"}]
    )
    known = {"code": "updates-lost", "layer": "w", "severity": "fail", "value": None, "limit": None}
    told = {"result": {"verdict": "stop", "numbers": []}, "findings": [known], "checkpoints": [{"step": 3}]}
    result, findings, silenced = conclude(examination(), rules, (Path("b.json"), told))
    assert silenced == 1 and [one.severity for one in findings] == ["info"] and result.verdict == "go"
    assert isinstance(result.baseline, Comparison) and result.baseline.known == ("updates-lost",)
