import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.sharpness.findings import judge
from fromage_cli.diagnostics.sharpness.result import BatchSharpness, HessianEigenvalue, SharpnessResult
from fromage_cli.missing import Missing, Why

NOTHING = Missing(Why.NO_FORMULA, "theory does not reach it")
MakeResult = Callable[..., SharpnessResult]


@pytest.mark.parametrize(
    ("regime", "ratio", "code", "severity", "words"),
    [
        (
            "catapult",
            1.5,
            "catapult",
            "info",
            "the loss may jump and come back: the sharpest direction has 1.5 × the curvature that SGD tolerates at 0.1",
        ),
        (
            "architecture-dependent",
            3.0,
            "rate-depends-on-architecture",
            "warn",
            "some networks survive such a rate, others diverge: the sharpest direction has 3 × the curvature that SGD",
        ),
        (
            NOTHING,
            12.2,
            "above-threshold",
            "warn",
            "steps along the sharpest direction grow: it has 12 × the curvature that SGD tolerates at 0.1",
        ),
    ],
)
def test_each_regime_above_the_threshold_has_its_words(
    make_result: MakeResult, regime: str | Missing, ratio: float, code: str, severity: str, words: str
) -> None:
    finding = judge(make_result(regime=regime, ratio=ratio))[0]
    assert (finding.code, finding.severity, finding.value) == (code, severity, ratio)
    assert words in finding.message
    assert "ower the rate below 0.0821" in finding.hint


def test_the_threshold_before_adams_first_step_is_no_finding(make_result: MakeResult) -> None:
    begins = make_result(regime=NOTHING, ratio=12.2, second_moments="16 gradients of 2 rows each at fixed weights")
    assert begins.before_adam and judge(begins) == ()
    rises = replace(begins, quadratic=replace(begins.quadratic, outcome="rises"), trained=False)
    assert [one.hint for one in judge(rises)] == ["Warm up the rate: that makes Adam's first steps small."]
    unsaved = replace(rises, trained=True)
    assert [one.hint for one in judge(unsaved)] == ["Lower the rate, or warm it up. To look further raise --simulate."]
    trained = judge(replace(begins, second_moments="checkpoint"))
    assert [(one.code, one.severity) for one in trained] == [("above-threshold", "warn")]


@pytest.mark.parametrize("ratio", [0.85, 1.2])
def test_the_edge_of_stability_is_told_on_both_sides(make_result: MakeResult, ratio: float) -> None:
    finding = judge(make_result(ratio=ratio))[0]
    assert (finding.code, finding.severity) == ("edge-of-stability", "info")
    assert "the loss falls over many steps, but not in each" in finding.message


def test_nothing_is_wrong_below_the_threshold(make_result: MakeResult) -> None:
    assert judge(make_result(regime="lazy", ratio=0.3)) == ()
    assert judge(make_result(regime=NOTHING, ratio=NOTHING, threshold=NOTHING)) == ()


@pytest.mark.parametrize(
    ("outcome", "losses", "code", "severity", "words"),
    [
        (
            "spikes",
            (0.5, 2.4, 0.4),
            "quadratic-model-spikes",
            "warn",
            "jumps from 0.5 to 2.4 and is back after 2 steps",
        ),
        (
            "rises",
            (0.5, 0.6, 0.7),
            "quadratic-model-rises",
            "warn",
            "rises from 0.5 to 0.7, not back after 2 steps",
        ),
        ("diverges", (0.5, 9.0, math.inf), "quadratic-model-diverges", "warn", "diverges within 2 steps"),
        ("diverges", (0.5, math.inf), "quadratic-model-diverges", "warn", "model diverges within 1 step"),
    ],
)
def test_the_course_of_the_quadratic_model_is_told(
    make_result: MakeResult, outcome: str, losses: tuple[float, ...], code: str, severity: str, words: str
) -> None:
    quiet = make_result(regime="lazy", ratio=0.3)
    assert not isinstance(quiet.quadratic, Missing)
    model = replace(quiet.quadratic, outcome=outcome, losses=losses)
    (finding,) = judge(replace(quiet, quadratic=model))
    assert (finding.code, finding.severity, finding.limit) == (code, severity, 0.5)
    assert words in finding.message and " 1 steps" not in finding.message
    assert judge(replace(quiet, quadratic=replace(model, outcome="falls"))) == judge(replace(quiet, quadratic=NOTHING))


def test_plain_sgd_is_told_when_its_batches_are_too_sharp(make_result: MakeResult) -> None:
    plain = {"momentum": 0.0, "regime": "lazy", "ratio": 0.5}
    (finding,) = judge(make_result(**plain))
    assert finding.code == "batch-sharpness-high"
    assert "batch of 64 rows: along its gradient the curvature is 2.1 × what SGD tolerates" in finding.message
    assert judge(make_result(**plain, batch_sharpness=BatchSharpness(21.0, 3.9, 8, 64))) == ()


def test_a_first_step_of_adam_that_raises_the_loss_is_told(make_result: MakeResult) -> None:
    quiet = {"optimizer": "adam", "momentum": None, "regime": NOTHING, "ratio": 0.5}
    (finding,) = judge(make_result(**quiet, first_step_ratio=2.5))
    assert (finding.code, finding.value, finding.limit) == ("first-step-rises", 2.5, 1.0)
    assert judge(make_result(**quiet, first_step_ratio=0.9)) == ()


def test_a_loss_without_positive_curvature(make_result: MakeResult) -> None:
    (finding,) = judge(make_result(eigenvalues=(HessianEigenvalue(-0.2, 1e-5),), ratio=-0.1, regime="lazy"))
    assert finding.code == "no-positive-curvature"
