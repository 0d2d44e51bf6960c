"""The verdict never contradicts ratio or quadratic model, and says what to do."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.sharpness.conclusion import advise, optimizer_at_rate, verdict
from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, OPTIMIZER_UNKNOWN, Missing, Why

NO_RATIO = Missing(Why.RESTS_ON_MISSING, "there is no ratio")
NOT_MEASURED = Missing(Why.NO_FORMULA, "with momentum and squared error nothing was measured")
LOSSES = {"falls": (0.5, 0.4), "spikes": (0.5, 2.4, 0.4), "rises": (0.5, 2.4), "diverges": (0.5, math.inf), None: ()}
MakeResult = Callable[..., SharpnessResult]


def said(result: SharpnessResult) -> str:
    return " ".join(verdict(result))


@pytest.mark.parametrize("outcome", LOSSES)
@pytest.mark.parametrize("ratio", [-0.1, 0.45, 0.97, 1.2, 9.0])
@pytest.mark.parametrize("regime", ["lazy", "catapult", "architecture-dependent", NOT_MEASURED])
def test_the_verdict_never_contradicts_ratio_or_model(
    make_result: MakeResult, outcome: str | None, ratio: float, regime: str | Missing
) -> None:
    model = replace(make_result().quadratic, outcome=outcome or NO_RATIO, losses=LOSSES[outcome])
    result = make_result(ratio=ratio, regime=regime, quadratic=model)
    sentences, advice = [*verdict(result)], advise(result)
    assert all(len(sentence.split()) <= 20 for sentence in sentences)
    if outcome in ("spikes", "rises", "diverges"):
        assert sentences[0].startswith("Unstable at 0.1: in simulated steps the loss ")
        assert ("(ratio " in said(result)) == (ratio < 1.0) and advice.startswith("lower the rate")
    elif ratio < 0.0:
        assert sentences[0].startswith("No curvature limits the rate") and advice.startswith("nothing to change")
    elif ratio < 1.0:
        assert sentences[0].startswith(f"Stable: the network has {100.0 * ratio:.0f} % of the sharpness that SGD at ")
        assert advice == "nothing to change; up to 0.0821 stays stable at today's curvature."
    else:
        assert sentences[0].startswith(f"Unstable in the sharpest direction: the network has {ratio:.1f}"[:-2])
        assert advice == "lower the rate below 0.0821, or warm it up."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regime": "lazy", "ratio": 0.45}, "the network has 45 % of the sharpness that SGD at 0.1 tolerates."),
        (
            {"regime": "edge-of-stability"},
            "At the edge of stability: the network has 1.2 × the sharpness that SGD at 0.1",
        ),
        ({"regime": "edge-of-stability"}, "tolerates. There the loss falls over many steps, but not in each."),
        ({"regime": "catapult"}, "Expect the loss to jump and come back (a catapult), as in 381 of 384 runs studied."),
        ({"regime": "architecture-dependent"}, "Of the runs studied at such ratios some survived and some diverged."),
        (
            {"regime": NOT_MEASURED, "ratio": 12.2},
            "has 12 × the sharpness that SGD at 0.1 tolerates. In simulated steps",
        ),
        ({"regime": NOT_MEASURED, "quadratic": NOT_MEASURED}, "Expect the loss to oscillate or to diverge."),
        (
            {"regime": "lazy", "ratio": 0.4, "learning_rate": 0.6},
            "One step at this rate raises the loss of these rows, which later steps may undo.",
        ),
    ],
)
def test_the_verdict_goes_on_with_what_to_expect(
    make_result: MakeResult, changes: dict[str, object], words: str
) -> None:
    assert words in said(make_result(**changes))


def test_a_first_step_of_adam_that_raises_the_loss_is_the_answer(make_result: MakeResult) -> None:
    adam = {"optimizer": "adam", "momentum": None, "ratio": 0.2, "regime": NOT_MEASURED, "trained": False}
    adam["second_moments"] = "16 parts"
    bad = make_result(**adam, first_step_sharpness=50.0, first_step_ratio=2.5)
    assert said(bad) == "Unstable at 0.1: Adam's first step raises the loss, as from a rate of 0.04 on."
    assert advise(bad).startswith("Warm up the rate")
    assert "No verdict" in said(make_result(**adam, first_step_sharpness=5.0, first_step_ratio=0.25))


def test_before_adams_first_step_there_is_no_verdict(make_result: MakeResult) -> None:
    adam = {"optimizer": "adam", "momentum": None, "regime": NOT_MEASURED, "second_moments": "16 gradients"}
    adam["trained"] = False
    model = replace(make_result().quadratic, outcome="rises", losses=(0.5, 2.4))
    for ratio in (0.2, 9.0):
        result = make_result(**adam, ratio=ratio)
        begins = f"No verdict: where Adam begins, its ratio ({ratio:g}) does not tell healthy from sick runs."
        assert said(result) == begins and advise(result).startswith("measure a later checkpoint")
        bad = make_result(**adam, ratio=ratio, quadratic=model)
        assert said(bad).endswith("and stays up.") and advise(bad).startswith("Warm up the rate")
    trained = make_result(**{**adam, "second_moments": "checkpoint"}, ratio=9.0)
    assert advise(trained).startswith("lower the rate below")


def test_without_a_saved_state_of_adam_a_trained_checkpoint_is_not_said_to_begin(make_result: MakeResult) -> None:
    adam = {"optimizer": "adam", "momentum": None, "regime": NOT_MEASURED, "second_moments": "16 gradients"}
    result = make_result(**adam, ratio=9.0)
    assert said(result) == "No verdict: the file holds no state of Adam, so the ratio tells little."
    assert advise(result) == "give --optimizer-state, or a checkpoint that holds it."
    rises = replace(make_result().quadratic, outcome="rises", losses=(0.5, 2.4))
    assert advise(make_result(**adam, ratio=9.0, quadratic=rises)) == "lower the rate, or warm it up."
    begins = make_result(**{**adam, "second_moments": "checkpoint, in which Adam has hardly begun"}, ratio=9.0)
    assert "where Adam begins" in said(begins) and advise(begins).startswith("measure a later checkpoint")


def test_of_groups_all_rates_are_named_and_lowered(make_result: MakeResult) -> None:
    grows = make_result(lowest_learning_rate=0.004, regime=NOT_MEASURED)
    assert optimizer_at_rate(grows) == "SGD at 0.004 to 0.1"
    assert advise(grows) == "lower all rates alike, the highest below 0.0821, or warm them up."
    rises = replace(make_result().quadratic, outcome="rises", losses=(0.5, 2.4))
    assert advise(replace(grows, quadratic=rises)) == "lower all rates alike, or warm them up."


def test_what_is_missing_is_said(make_result: MakeResult) -> None:
    assert said(make_result(eigenvalues=())) == "No curvature was measured."
    no_optimizer = {"optimizer": None, "momentum": None, "regime": NO_RATIO, "quadratic": OPTIMIZER_UNKNOWN}
    fields = ("ratio", "threshold", "stable_learning_rate")
    unknown = make_result(**no_optimizer, **dict.fromkeys(fields, OPTIMIZER_UNKNOWN))
    assert said(unknown) == "No verdict yet: whether a sharpness of 46.3 is stable depends on optimizer and rate."
    assert advise(unknown) == "for a verdict name optimizer and rate: --optimizer sgd --lr 0.1"
    assert optimizer_at_rate(unknown) == ""
    no_rate = {"learning_rate": LEARNING_RATE_UNKNOWN, "ratio": NO_RATIO, "regime": NO_RATIO}
    still = make_result(**no_rate, threshold=LEARNING_RATE_UNKNOWN, quadratic=OPTIMIZER_UNKNOWN)
    words = "SGD is stable up to a rate of 0.0821: there it tolerates this network's sharpness of 46.3."
    assert said(still) == words and advise(still) == "for a verdict give your rate: --lr RATE"
    assert optimizer_at_rate(still) == "SGD"
    lion = replace(still, optimizer="lion", momentum=None, learning_rate=0.1, stable_learning_rate=NO_RATIO)
    assert said(replace(lion, critical_sharpness=NO_RATIO)) == "No verdict: the learning rate is not known."
    assert advise(replace(lion, critical_sharpness=NO_RATIO)) == ""
    assert advise(replace(lion, learning_rate=LEARNING_RATE_UNKNOWN)) == "for a verdict give your rate: --lr RATE"


@pytest.mark.parametrize(
    ("rate", "words", "advice"),
    [
        (0.6, "Unstable: one Lion step at 0.6 raises the loss, as from 0.505 on.", "lower the rate below 0.505"),
        (0.01, "Stable as far as one step tells: Lion raises the loss from 0.505 on, 50.5 × your 0.01.", "nothing to"),
        (LEARNING_RATE_UNKNOWN, "One Lion step raises the loss from a rate of 0.505 on.", "for a verdict give your"),
    ],
)
def test_a_rule_without_threshold_is_judged_by_its_next_step(
    make_result: MakeResult, rate: float | Missing, words: str, advice: str
) -> None:
    """The step raises the loss from twice over the critical sharpness of 3.96 on."""
    none = {"ratio": NO_RATIO, "stable_learning_rate": NO_RATIO, "threshold": NO_RATIO}
    lion = replace(make_result(**none), optimizer="lion", momentum=None, learning_rate=rate)
    assert said(lion) == f"{words} No curvature limits the rate of Lion, so its next step was tried instead."
    assert advise(lion).startswith(advice)
