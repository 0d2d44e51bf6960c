import math
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.norms.findings import judge
from fromage_cli.diagnostics.norms.result import STEADY, Channels, Overflow, OverflowSteps
from fromage_cli.missing import OPTIMIZER_UNKNOWN, STEP_UNKNOWN
from fromage_cli.optimizers.effective_rate import NO_NORM
from fromage_cli.theory.scale_invariance import Invariance


def codes(result):
    return [(finding.code, finding.severity, finding.layer) for finding in judge(result)]


def test_a_layer_that_follows_the_law(make_result, make_layer):
    assert codes(make_result()) == [("norm-follows-law", "warn", "convolutions.0.weight")]
    (finding,) = judge(make_result())
    assert "doubles every 3466 steps" in finding.message and "Fromage" in finding.hint
    assert (finding.value, finding.limit) == (2e-4, 1.99960e-4)
    for law, found in ((1.825e-4, 1), (1.81e-4, 0), (2.21e-4, 1), (2.23e-4, 0)):  # within a tenth of the law
        assert len(codes(make_result(layers=(make_layer(predicted_growth=law),)))) == found


def test_without_a_law_nothing_follows_it(make_result, make_layer):
    for law in (NO_NORM, 0.0, 1e-3):
        assert codes(make_result(layers=(make_layer(predicted_growth=law),))) == []
    assert codes(make_result(layers=(make_layer(growth_per_step=NO_NORM),))) == []


def test_an_overflow_within_sight(make_result, make_layer):
    def reaching(step, **changes):
        overflow = OverflowSteps(Overflow(step, step), Overflow(4e5, 2e5), Overflow(4e5, 2e5))
        return (make_layer(predicted_growth=OPTIMIZER_UNKNOWN, overflow_step=overflow, **changes),)

    near = make_result(layers=reaching(22000.0))  # ten times as far as the series is long
    assert codes(near) == [("norm-overflows", "warn", "convolutions.0.weight")]
    assert "leaves float16 at step 22000" in judge(near)[0].message
    assert "at step 22000 (epoch 220)" in judge(replace(near, steps_per_epoch=100))[0].message
    assert codes(make_result(layers=reaching(22001.0))) == []
    assert codes(make_result(layers=reaching(22000.0, dtype="float64"))) == []
    assert codes(make_result(layers=reaching(22000.0), steps=(STEP_UNKNOWN,))) == []


def invariance(verdict, **others):
    return Invariance(verdict, None if verdict == "none" else "channel", **others)


@pytest.mark.parametrize("verdict", ["invariant", "eps-limited", "approximate"])
def test_an_invariant_layer_that_grows(make_result, make_layer, verdict):
    layer = make_layer(invariance=invariance(verdict), halved_step=1733.0)
    result = make_result(layers=(layer,), steps_per_epoch=100)
    (finding,) = judge(result)
    assert (finding.code, finding.severity, finding.layer) == ("invariant-layer-grows", "warn", layer.name)
    assert (
        "3466 steps (35 epochs), its effective learning rate halved since the first checkpoint by step 1733"
        in finding.message
    )
    assert ("(" + verdict + ")" in finding.message) == (verdict != "invariant")
    assert all(remedy in finding.hint for remedy in ("Fromage", "decay", "bound"))
    assert (
        "will have halved"
        in judge(make_result(layers=(make_layer(invariance=invariance(verdict), halved_step=1e4),)))[0].message
    )


def test_invariant_layers_that_hardly_grow_or_layers_whose_scale_is_felt(make_result, make_layer):
    slow = make_layer(
        invariance=invariance("invariant"), growth_per_step=3e-5
    )  # doubles in 23,000 steps, the run has 2000
    noisy = make_layer(invariance=invariance("invariant"), growth_stderr=1.1e-4)
    three = make_layer(invariance=invariance("invariant"), growth_stderr=4e-5)  # 5 errors, of three checkpoints
    felt = make_layer(invariance=invariance("none"))  # though it follows the law
    for layer in (slow, noisy, three, felt):
        assert codes(make_result(layers=(layer,))) == []


def test_dead_biases_and_rows(make_result, make_layer):
    layer = make_layer(growth_per_step=NO_NORM, dead_bias=True, channels=Channels(10, 0.0, 1.0, 2.0, 2))
    assert codes(make_result(layers=(layer,))) == [("rows-dead", "info", layer.name), ("bias-dead", "info", layer.name)]
    assert "2 of its 10 rows" in judge(make_result(layers=(layer,)))[0].message
    few = make_layer(growth_per_step=NO_NORM, dead_bias=False, channels=Channels(10, 0.0, 1.0, 2.0, 1))
    assert codes(make_result(layers=(few,))) == []


def test_norms_that_are_not_finite(make_result, make_layer):
    broken = make_layer(norms=(1.0, math.inf, math.nan), growth_per_step=NO_NORM, overflow_step=STEADY)
    (finding,) = judge(make_result(layers=(broken,)))
    assert (finding.code, finding.severity) == ("norm-not-finite", "fail")
    assert "2 of 3 steps" in finding.message


def test_an_optimizer_that_decays_the_weights_is_not_told_to(make_result):
    (finding,) = judge(replace(make_result(), weight_decay=0.1))
    assert "at this pace" in finding.message and finding.hint.startswith("The weight decay slows this down")
