"""What is judged over all commands."""

from dataclasses import replace
from types import SimpleNamespace

from fromage_cli.diagnostics.check.comparisons import Answered
from fromage_cli.diagnostics.check.findings import judge, sentence, verdict_of
from fromage_cli.findings import Finding

WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8", layer="output.weight", hint="Lower the rate.")
FAIL = Finding("tensor-not-finite", "fail", "the weights hold NaN", layer="first", hint="Load another file.")
INFO = Finding("x", "info", "small")


def test_the_verdict_is_that_of_the_gravest_finding() -> None:
    for found, verdict in (((), "go"), ((INFO,), "go"), ((WARN, INFO), "look"), ((FAIL, WARN), "stop")):
        assert verdict_of(found) == verdict
    assert sentence("stop", (FAIL,), 3) == "Stop: first: the weights hold NaN."
    assert sentence("go", (), 3) == "Go on: 3 commands found nothing wrong."


def test_the_gravest_comes_first_and_each_stands_once() -> None:
    assert judge(Answered(), (), (INFO, WARN, INFO, FAIL, WARN)) == (FAIL, WARN, INFO)


def test_what_a_command_says_of_its_own_reach_is_no_verdict() -> None:
    assert judge(Answered(), (), (Finding("scale-invariance-untested", "warn", "not tested"),)) == ()


def test_a_network_that_has_not_learned_yet_is_no_warning_while_the_rate_rises() -> None:
    early = Finding("no-better-than-guessing", "warn", "not learned yet")
    for rates, severity in (((0.1, 0.2), "info"), ((0.2, 0.2), "warn"), ((0.2,), "warn"), ((None, 0.2), "warn")):
        files = [SimpleNamespace(learning_rate=rate) for rate in rates]
        answered = Answered(state=SimpleNamespace(files=files, groups=()))
        assert [one.severity for one in judge(answered, (), (early,))] == [severity]


def test_too_large_steps_are_a_warning_where_two_measures_agree() -> None:
    sharp, model = (Finding(code, "warn", "too large") for code in ("above-threshold", "quadratic-model-rises"))
    for found, severities in (((sharp,), ["info"]), ((model,), ["info"]), ((sharp, model), ["warn", "warn"])):
        assert [one.severity for one in judge(Answered(), (), found)] == severities
    quiet = replace(sharp, severity="info")
    assert [one.severity for one in judge(Answered(), (), (quiet, model))] == ["info", "info"]


def test_a_norm_that_grew_alone_is_no_warning_where_the_network_says_nothing_else() -> None:
    grown = Finding("norm-far-from-first", "warn", "it grew", layer="w", value=8.4, limit=6.0)
    sharp = Finding("above-threshold", "warn", "too large")
    for network, found, severity in (
        (False, (grown,), "warn"),
        (True, (grown,), "info"),
        (True, (grown, sharp), "info"),  # which alone is none either
        (True, (grown, Finding("schedule-mismatch", "warn", "of the forecast")), "info"),
        (True, (grown, Finding("loss-rises", "warn", "it rises")), "warn"),
        (True, (replace(grown, value=9.7),), "warn"),
        (True, (replace(grown, value=0.1),), "warn"),
    ):
        told = judge(Answered(in_network=network), (), found)
        assert next(one for one in told if one.code == grown.code).severity == severity


def test_a_rate_that_rises_again_may_be_meant() -> None:
    assert [one.severity for one in judge(Answered(), (), (Finding("rate-rises-again", "warn", "it does"),))] == [
        "info"
    ]
