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
            "the rate is 3 / λ of this batch: along that curvature the loss rises at first",
        ),
        (
            "architecture-dependent",
            3.0,
            "rate-depends-on-architecture",
            "warn",
            "6 / λ of this batch: beyond what two-layer",
        ),
        ("divergent", 7.0, "rate-diverges", "fail", "14 / λ of this batch: beyond what any network"),
        (NOTHING, 12.2, "above-threshold", "warn", "12 × what the optimizer bears"),
    ],
)
def test_each_regime_above_the_threshold_has_its_words(
    make_result: MakeResult, regime: str | Missing, ratio: float, code: str, severity: str, words: str
) -> None:
    finding = judge(make_result(regime=regime, ratio=ratio))[0]
    assert (finding.code, finding.severity, finding.value) == (code, severity, ratio)
    assert words in finding.message
    assert finding.hint


@pytest.mark.parametrize("ratio", [0.85, 1.2])
def test_the_edge_of_stability_is_told_on_both_sides(make_result: MakeResult, ratio: float) -> None:
    finding = judge(make_result(ratio=ratio))[0]
    assert (finding.code, finding.severity) == ("edge-of-stability", "info")
    assert "the loss falls over many steps but not in each" in finding.message


def test_nothing_is_wrong_below_the_threshold(make_result: MakeResult) -> None:
    assert judge(make_result(regime="lazy", ratio=0.3)) == ()
    assert judge(make_result(regime=NOTHING, ratio=NOTHING, threshold=NOTHING)) == ()


@pytest.mark.parametrize(
    ("outcome", "losses", "code", "severity", "words"),
    [
        ("spikes", (0.5, 2.4, 0.4), "quadratic-model-spikes", "info", "spikes from 0.5 to 2.4 and comes back within 2"),
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
    assert judge(replace(quiet, quadratic=replace(model, outcome="rises"))) == judge(replace(quiet, quadratic=NOTHING))


def test_plain_sgd_is_told_when_its_batches_are_too_sharp(make_result: MakeResult) -> None:
    plain = {"momentum": 0.0, "regime": "lazy", "ratio": 0.5}
    (finding,) = judge(make_result(**plain))
    assert finding.code == "batch-sharpness-high"
    assert "batches of 64 rows the curvature is 2.1 × 2 / η" in finding.message
    assert judge(make_result(**plain, batch_sharpness=BatchSharpness(21.0, 3.9, 8, 64))) == ()


def test_the_bands_are_carried_over_to_other_optimizers_with_a_word(make_result: MakeResult) -> None:
    initial = {"trained": False, "regime": "catapult", "ratio": 1.5}
    assert [finding.code for finding in judge(make_result(**initial))] == ["catapult", "bands-of-plain-descent"]
    plain = judge(make_result(**initial, momentum=0.0, batch_sharpness=NOTHING))
    assert [finding.code for finding in plain] == ["catapult"]


def test_a_loss_without_positive_curvature(make_result: MakeResult) -> None:
    (finding,) = judge(make_result(eigenvalues=(HessianEigenvalue(-0.2, 1e-5),), ratio=-0.1, regime="lazy"))
    assert finding.code == "no-positive-curvature"
