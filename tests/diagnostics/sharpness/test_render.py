import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.sharpness.render import render, summary
from fromage_cli.diagnostics.sharpness.result import HessianEigenvalue, LayerBlock, SharpnessResult
from fromage_cli.missing import LEARNING_RATE_UNKNOWN, LIMIT_REACHED, OPTIMIZER_UNKNOWN, Missing, Why
from tests.diagnostics.pages import compare, drawn

NO_RATIO = Missing(Why.RESTS_ON_MISSING, "there is no ratio")
MakeResult = Callable[..., SharpnessResult]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_many_eigenvalues_are_cut_short(make_result: MakeResult) -> None:
    result = make_result(eigenvalues=tuple(HessianEigenvalue(40.0 - rank, 0.01) for rank in range(12)))
    assert "4 of 12 rows hidden" in page(result)
    assert "hidden" not in page(result, show_all=True)


LOSSES = {"falls": (0.5, 0.4), "spikes": (0.5, 2.4, 0.4), "rises": (0.5, 2.4), "diverges": (0.5, math.inf), None: ()}
NOT_MEASURED = Missing(Why.NO_FORMULA, "with momentum and squared error nothing was measured")
GOOD = ("stable", "edge of stability", "shrink", "come back", "still falls")


@pytest.mark.parametrize("outcome", LOSSES)
@pytest.mark.parametrize("ratio", [-0.1, 0.45, 0.97, 1.2, 9.0])
@pytest.mark.parametrize("regime", ["lazy", "catapult", "architecture-dependent", NOT_MEASURED])
def test_the_first_sentence_never_contradicts_ratio_or_model(
    make_result: MakeResult, outcome: str | None, ratio: float, regime: str | Missing
) -> None:
    model = replace(make_result().quadratic, outcome=outcome or NO_RATIO, losses=LOSSES[outcome])
    told = summary(make_result(ratio=ratio, regime=regime, quadratic=model))
    sentences = re.split(r"(?<=[.:;]) ", told)
    assert f"(ratio {ratio:.3g})" in re.split(r"(?<=[a-z)]\.) ", told)[0]
    assert all(len(sentence.split()) <= 20 for sentence in sentences)
    if outcome in ("spikes", "rises", "diverges"):
        assert told.startswith("At this rate the loss ") and "quadratic model" in told
        assert not any(word in told for word in GOOD)
        assert "ower the rate" in told
    elif ratio < 1.0:
        assert told.startswith(("Your rate is stable on today's curvature", "Today's curvature bounds no rate"))
        assert "ower the rate" not in told
    else:
        assert told.startswith("At this rate ") and "stable" not in told
        assert "Lower the rate below 0.0821" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"regime": "lazy", "ratio": 0.45},
            "shrink on it (lazy), but training may raise it. The threshold is at a rate of",
        ),
        ({"regime": "edge-of-stability"}, "Your rate is at the edge of stability (ratio 1.22). There the loss falls"),
        ({"regime": NOT_MEASURED}, "With momentum and squared error nothing was measured. Lower the rate below 0.0821"),
    ],
)
def test_the_answer_goes_on_with_the_regime(make_result: MakeResult, changes: dict[str, object], words: str) -> None:
    assert words in summary(make_result(**changes))


def test_a_first_step_of_adam_that_raises_the_loss_is_the_answer(make_result: MakeResult) -> None:
    adam = {
        "optimizer": "adam",
        "momentum": None,
        "ratio": 0.2,
        "regime": NOT_MEASURED,
        "second_moments": "16 gradients",
    }
    told = summary(make_result(**adam, first_step_sharpness=50.0, first_step_ratio=2.5))
    assert told.startswith(
        "At this rate the first step raises the loss: it is 2.5 × the smallest that does (ratio 0.2)."
    )
    calm = make_result(**adam, first_step_sharpness=5.0, first_step_ratio=0.25)
    assert "Adam's first step moves each weight by the rate; it raises the loss from 0.4 on." in summary(calm)
    assert "first step" in page(calm)


def test_before_adams_first_step_there_is_no_verdict(make_result: MakeResult) -> None:
    adam = {"optimizer": "adam", "momentum": None, "regime": NOT_MEASURED, "second_moments": "16 gradients"}
    model = replace(make_result().quadratic, outcome="rises", losses=(0.5, 2.4))
    for ratio in (0.2, 9.0):
        told = summary(make_result(**adam, ratio=ratio))
        assert told == (
            f"No verdict: where Adam begins, this ratio ({ratio:g}) did not tell healthy runs from sick ones. "
            "A later checkpoint, with Adam's state, tells more."
        )
        bad = summary(make_result(**adam, ratio=ratio, quadratic=model))
        assert bad.endswith(f"stays up (ratio {ratio:g}). Warm-up makes Adam's first steps small.")
    assert "Lower the rate" in summary(make_result(**{**adam, "second_moments": "checkpoint"}, ratio=9.0))


def test_what_is_missing_is_said(make_result: MakeResult) -> None:
    result = make_result()
    assert "No eigenvalue" in summary(replace(result, eigenvalues=()))
    unknown = replace(
        result,
        optimizer=None,
        threshold=OPTIMIZER_UNKNOWN,
        stable_learning_rate=OPTIMIZER_UNKNOWN,
        ratio=OPTIMIZER_UNKNOWN,
        regime=NO_RATIO,
        quadratic=OPTIMIZER_UNKNOWN,
    )
    assert "without optimizer and rate: name yours, as --optimizer sgd --lr 0.1." in summary(unknown)
    words = "not known: quadratic model, ratio, because the optimizer is not known: --optimizer NAME gives it\n"
    assert words in page(unknown).replace("known:\n", "known: ")
    assert "regime" not in page(unknown)
    no_rate = {"learning_rate": LEARNING_RATE_UNKNOWN, "ratio": NO_RATIO, "regime": NO_RATIO}
    still = replace(result, **no_rate, threshold=LEARNING_RATE_UNKNOWN, quadratic=OPTIMIZER_UNKNOWN)
    assert "SGD with momentum 0.9 is stable on today's curvature up to a rate of 0.0821; --lr gives yours." in summary(
        still
    )
    lion = replace(still, optimizer="lion", momentum=None, learning_rate=0.1, stable_learning_rate=NO_RATIO)
    assert "There is no verdict: the learning rate is not known" in summary(replace(lion, critical_sharpness=NO_RATIO))
    assert summary(replace(lion, learning_rate=LEARNING_RATE_UNKNOWN)).endswith("for a verdict give yours: --lr RATE.")


@pytest.mark.parametrize(
    ("rate", "words"),
    [(0.6, "and you run at 0.6: lower the rate, or warm it up."), (0.01, "your rate is stable as far as that tells.")],
)
def test_a_rule_without_threshold_is_judged_by_its_next_step(make_result: MakeResult, rate: float, words: str) -> None:
    """The step raises the loss from twice over the critical sharpness of 3.96 on."""
    lion = replace(make_result(), optimizer="lion", momentum=None, ratio=NO_RATIO, learning_rate=rate)
    text = summary(lion)
    assert "No curvature bounds the rate of Lion. Its next step raises the loss from a rate of 0.505 on" in text
    assert text.endswith(words)


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = " ".join(page(make_result(), ascii_only=True).split())
    assert all(
        value in text for value in ("46.3 +- 0.03", "44.1", "3.96 +- 0.4", "41 +- 3.9", "38", "1.22", "0.42 x yours")
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"outcome": "spikes", "losses": (0.5, 0.9, 2.4, 1.1, 0.4)},
            "spikes to 2.4 and is back below its start after 4 steps",
        ),
        (
            {"outcome": "falls"},
            "█▆▅▂▁. The network itself may leave that course: many steps may raise its curvature.",
        ),
        ({"outcome": "falls"}, "yours. Trained in the model, the loss falls from 0.5 to 0.4 in 4 steps: "),
        ({"outcome": "falls", "losses": (0.0, 0.0, 0.0)}, "Trained in the model, the loss stays at 0."),
        ({"outcome": "rises", "losses": (0.5, 2.4)}, "rises to 2.4 and is not back after 1 step: "),
        ({"outcome": "diverges", "losses": (0.5, float("inf"))}, "grows without bound within 1 step: "),
        (
            {"outcome": NO_RATIO, "losses": (), "spikes": NO_RATIO},
            "follows its quadratic model up to a rate of 0.042, 0.42 × yours.",
        ),
        (
            {"radius": Missing(Why.ABOVE_GRID, ""), "radius_relation": "above-grid"},
            "For the next update alone, the network follows its quadratic model at every rate looked at.",
        ),
        (
            {"radius": Missing(Why.BELOW_GRID, ""), "radius_relation": "below-grid"},
            "follows its quadratic model at no rate looked at.",
        ),
    ],
)
def test_the_quadratic_model_in_words(make_result: MakeResult, changes: dict[str, object], words: str) -> None:
    result = make_result()
    assert not isinstance(result.quadratic, Missing)
    shown = page(replace(result, quadratic=replace(result.quadratic, **changes)), 200)
    assert words in " ".join(shown.split())


def test_blocks_are_shown_the_sharpest_first(make_result: MakeResult) -> None:
    layers = tuple(LayerBlock(f"layers.{n}.weight", "Linear", (4, 3), 12, float(n), 0.01) for n in range(11))
    layers += (LayerBlock("late.weight", "Linear", (4, 3), 12, LIMIT_REACHED, LIMIT_REACHED),)
    text = page(make_result(layers=layers))
    assert text.index("layers.10.weight") < text.index("layers.9.weight")
    assert "late.weight" not in text and "4 of 12 rows hidden" in text
    assert "late.weight" in page(make_result(layers=layers), show_all=True)
