import math

from fromage_cli.diagnostics.norms.findings import Limits, judge


def codes(result, **limits):
    return [(finding.code, finding.severity, finding.layer) for finding in judge(result, Limits(**limits))]


def test_a_layer_that_follows_the_law(make_result):
    assert codes(make_result()) == [("norm-follows-law", "warn", "convolutions.0.weight")]
    (finding,) = judge(make_result())
    assert "doubles every 3466 steps" in finding.message and "Fromage" in finding.hint
    assert (finding.value, finding.limit) == (2e-4, 1.99960e-4)
    assert codes(make_result(), law=1e-5) == []


def test_without_a_law_nothing_follows_it(make_result, make_layer):
    for law in (None, 0.0, 1e-3):
        assert codes(make_result(layers=(make_layer(predicted_growth=law),))) == []
    assert codes(make_result(layers=(make_layer(growth_per_step=None),))) == []


def test_an_overflow_within_sight(make_result, make_layer):
    layers = (make_layer(predicted_growth=None),)
    assert codes(make_result(layers=layers), horizon=25.0) == [("norm-overflows", "warn", "convolutions.0.weight")]
    assert codes(make_result(layers=layers), horizon=24.9) == []
    assert "leaves float16 at step 52000" in judge(make_result(layers=layers), Limits(horizon=30))[0].message
    assert codes(make_result(layers=(make_layer(predicted_growth=None, dtype="float64"),)), horizon=1e9) == []
    assert codes(make_result(layers=layers, steps=(None,)), horizon=1e9) == []


def test_norms_that_are_not_finite(make_result, make_layer):
    broken = make_layer(norms=(1.0, math.inf, math.nan), growth_per_step=None, overflow_step=None)
    (finding,) = judge(make_result(layers=(broken,)))
    assert (finding.code, finding.severity) == ("norm-not-finite", "fail")
    assert "2 of 3 steps" in finding.message
