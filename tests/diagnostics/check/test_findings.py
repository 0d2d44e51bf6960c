"""What is judged over all commands."""

from fromage_cli.diagnostics.check.findings import UNLIKE, judge, sentence, verdict_of
from fromage_cli.diagnostics.check.result import Sibling
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
    assert judge((), (INFO, WARN, INFO, FAIL, WARN)) == (FAIL, WARN, INFO)


def test_a_layer_out_of_line_is_named_with_its_factor() -> None:
    siblings = [Sibling(f"layers.{block}.weight", factor, 5) for block, factor in enumerate((1.0, 3.9, 10.0, 0.1))]
    large, small = judge(siblings, ())
    assert (large.layer, large.value, large.limit, large.severity) == ("layers.2.weight", 10.0, UNLIKE, "warn")
    assert large.message == "its weights are 10 times as large as those of 5 like it in other blocks"
    assert small.message.startswith("its weights are 10 times as small")
