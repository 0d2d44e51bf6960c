"""What is judged over all commands."""

from fromage_cli.diagnostics.check.findings import judge, sentence, verdict_of
from fromage_cli.diagnostics.check.result import OutOfLine
from fromage_cli.findings import Finding
from fromage_cli.theory.siblings import WEIGHT_FACTOR

WARN = Finding("norm-jumped", "warn", "its norm went from 1 to 8", layer="output.weight", hint="Lower the rate.")
FAIL = Finding("tensor-not-finite", "fail", "the weights hold NaN", layer="first", hint="Load another file.")
INFO = Finding("x", "info", "small")


def test_the_verdict_is_that_of_the_gravest_finding() -> None:
    for found, verdict in (((), "go"), ((INFO,), "go"), ((WARN, INFO), "look"), ((FAIL, WARN), "stop")):
        assert verdict_of(found) == verdict
    assert sentence("stop", (FAIL,), 3) == "Stop: first: the weights hold NaN."
    assert sentence("go", (), 3) == "Go on: 3 commands found nothing wrong."


def test_the_gravest_comes_first_and_each_stands_once() -> None:
    assert judge((), (INFO, WARN, INFO, FAIL, WARN)) == (FAIL, WARN, INFO)


def test_a_layer_out_of_line_is_named_with_its_factor() -> None:
    large, small = judge((OutOfLine("layers.2.weight", 10.0), OutOfLine("layers.3.weight", 0.1)), ())
    assert (large.layer, large.value, large.limit, large.severity) == ("layers.2.weight", 10.0, WEIGHT_FACTOR, "info")
    assert large.message == "its weights are 10 × as large as in its sibling layers"
    assert small.message == "its weights are 10 × as small as in its sibling layers"
