import math
from dataclasses import replace
from pathlib import Path

import pytest

from fromage_cli.checkpoints.layers import lasting_layers
from fromage_cli.checkpoints.runs.gathering import gather_series
from fromage_cli.diagnostics.norms.findings import judge
from fromage_cli.diagnostics.norms.measure import measure
from fromage_cli.diagnostics.norms.result import STEADY, Channels, Jump, Overflow, OverflowSteps
from fromage_cli.diagnostics.norms.settings import Settings
from fromage_cli.missing import OPTIMIZER_UNKNOWN, STEP_UNKNOWN
from fromage_cli.optimizers.effective_rate import NO_NORM
from fromage_cli.theory.scale_invariance import Invariance

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"


def codes(result):
    return [(finding.code, finding.severity, finding.layer) for finding in judge(result)]


def test_a_layer_that_follows_the_law(make_result, make_layer):
    assert codes(make_result()) == [("norm-follows-law", "info", "convolutions.0.weight")]
    (finding,) = judge(make_result())
    assert "doubles every 3466 steps" in finding.message and "Fromage" in finding.hint
    assert (finding.value, finding.limit) == (2e-4, 1.99960e-4)
    for law, found in ((1.825e-4, 1), (1.81e-4, 0), (2.21e-4, 1), (2.23e-4, 0)):  # within a tenth of the law
        assert len(codes(make_result(layers=(make_layer(predicted_growth=law),)))) == found


def test_without_a_law_nothing_follows_it(make_result, make_layer):
    for law in (NO_NORM, 0.0, 1e-3):
        assert codes(make_result(layers=(make_layer(predicted_growth=law),))) == []
    assert codes(make_result(layers=(make_layer(growth_per_step=NO_NORM),))) == []


def changed(*norms, name="blocks.0.weight", **changes):
    """A layer that does not grow steadily, and what its norms say of the change."""
    late = norms[-1] / norms[1] if len(norms) > 2 else NO_NORM
    return {
        "name": name,
        "norms": norms,
        "since_quarter": late,
        "growth_stderr": 1.0,
        "overflow_step": STEADY,
    } | changes


@pytest.mark.parametrize(
    ("norms", "told"), [((3.2, 16.0, 22.6), True), ((1.0, 8.0, 8.05), True), ((2.3, 9.0, 18.0), True),
                        ((2.4, 0.4, 0.2), True), ((1.87, 9.8, 11.0), False), ((6.0, 2.0, 1.01), False)]
)  # fmt: skip
def test_a_norm_that_went_far(make_result, make_layer, norms, told):
    found = judge(make_result(layers=(make_layer(**changed(*norms)),)))
    assert [finding.code for finding in found] == ["norm-far-from-first"] * told
    if told:
        assert found[0].value == pytest.approx(norms[-1] / norms[0]) and found[0].severity == "warn"
        assert f"from {norms[0]:.3g} to {norms[-1]:.3g}" in found[0].message
        assert ("decay the weights" in found[0].hint) == (norms[-1] > norms[0])


def test_the_fall_of_the_effective_rate_is_said_where_the_scale_is_free(make_result, make_layer):
    for verdict, words in (("invariant", "fell 49.9 ×"), ("untested", ""), ("none", "")):
        layer = make_layer(**changed(3.2, 16.0, 22.6, invariance=Invariance(verdict), effective_rate_fall=49.88))
        (found,) = judge(make_result(layers=(layer,)))
        assert words in found.message and ("effective learning rate" in found.message) == (verdict == "invariant")


def test_what_begins_small_is_held_against_a_quarter_of_the_run(make_result, make_layer):
    """Lookup tables, zero heads a step after the start: they have to find their size first."""
    for small in (
        changed(0.9, 8.0, 10.0, name="token.weight"),
        changed(0.9, 8.0, 10.0, kind="Embedding"),
        changed(0.1, 8.0, 10.0),
    ):
        assert judge(make_result(layers=(make_layer(**small),))) == ()
    late = make_layer(**changed(0.9, 1.1, 10.0, name="position.weight"))
    (found,) = judge(make_result(layers=(late,)))
    assert "from 1.1 to 10 (9.09 ×)" in found.message


def test_the_worst_layer_stands_for_all(make_result, make_layer):
    layers = [make_layer(**changed(1.0, 5.0, 7.0 + index, name=f"w{index}")) for index in range(3)]
    (found,) = judge(make_result(layers=tuple(layers)))
    assert found.layer == "w2" and "2 more norms changed as much" in found.message


@pytest.mark.parametrize(
    ("jump", "told"), [(Jump(100, 200, 3.0, 2.5, 9.0), True), (Jump(100, 200, 0.3, 0.4, 9.0), True),
                       (Jump(100, 200, 3.0, 2.5, 4.0), False),  # the other intervals show as much
                       (Jump(100, 200, 3.0, 1.5, 9.0), False), (Jump(100, 200, 1.01, 0.4, 9.0), False)]
)  # fmt: skip
def test_a_jump_out_of_line(make_result, make_layer, jump, told):
    found = judge(make_result(layers=(make_layer(**changed(1.0, 1.1, 3.0, jump=jump)),)))
    assert [(finding.code, finding.value) for finding in found] == [("norm-jumps", jump.factor)] * told


@pytest.mark.parametrize("sample", ["mlp-2", "mlp-16", "resmlp-16", "convnet-lars", "convnet-fromage", "char-gpt"])
def test_the_samples_are_in_good_health(sample):
    """Beyond the growth that LARS must have."""
    checkpoints = gather_series([str(SAMPLES / sample)]).checkpoints
    names, _ = lasting_layers(checkpoints)
    found = judge(measure(checkpoints, names, Settings(None, (None,) * len(checkpoints))))
    assert [finding.code for finding in found if finding.code in ("norm-far-from-first", "norm-jumps")] == []


def test_an_overflow_within_sight(make_result, make_layer):
    def reaching(step, **changes):
        overflow = OverflowSteps(Overflow(step, step), Overflow(4e5, 2e5), Overflow(4e5, 2e5))
        return (make_layer(predicted_growth=OPTIMIZER_UNKNOWN, overflow_step=overflow, **changes),)

    near = make_result(layers=reaching(22000.0))  # ten times as far as the series is long
    assert codes(near) == [("norm-overflows", "warn", "convolutions.0.weight")]
    assert "overflows float16 at step 22000" in judge(near)[0].message
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
    assert (finding.code, finding.severity, finding.layer) == ("invariant-layer-grows", "info", layer.name)
    must = "the norm doubles every 3466 steps (35 epochs), as LARS without weight decay must"
    assert finding.message.endswith(f"{must}; its effective learning rate halved by step 1733")
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
    assert finding.hint.startswith("Weight decay slows this down")


def test_layers_of_equal_bytes_in_all_checkpoints(make_result, make_layer):
    still = [make_layer(name, predicted_growth=0.0, unchanged=True) for name in "abcd"]
    moved = make_layer(predicted_growth=0.0)
    (finding,) = judge(make_result(layers=(moved, *still)))
    assert (finding.code, finding.severity, finding.value) == ("layers-unchanged", "info", 4.0)
    said = "4 layers hold the same bytes in all 3 checkpoints, while others moved: a, b, c …"
    assert finding.message == said
    (finding,) = judge(make_result(layers=(still[0],), steps=(0, 1)))
    assert finding.message == "no layer moved, as 1 layer holds the same bytes in both checkpoints: a"
    assert judge(make_result(layers=(moved,))) == ()
