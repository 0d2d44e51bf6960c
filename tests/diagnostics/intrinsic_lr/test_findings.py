import math

import pytest

from fromage_cli.diagnostics.intrinsic_lr.findings import judge, memory_steps
from fromage_cli.diagnostics.intrinsic_lr.prediction import NOT_INVARIANT


def codes(result):
    return [(finding.code, finding.severity) for finding in judge(result)]


def alone(make_result, make_layer, **changes):
    kept = {"log_ratio": 0.0, "relaxation_steps": 5000.0, **changes}
    return make_result(layers=(make_layer(**kept),))


def test_untested_invariance_is_a_warning_that_says_how_to_test(make_result, make_layer):
    untested = make_result(tested=False, layers=(make_layer(verdict="untested", log_ratio=0.0),))
    (found,) = judge(untested, "fromage-diag intrinsic-lr run --model hf tells.")
    assert (found.code, found.severity, found.value) == ("scale-invariance-untested", "warn", 1.0)
    assert found.hint == "fromage-diag intrinsic-lr run --model hf tells."
    assert codes(alone(make_result, make_layer, verdict="untested", unchanged=True)) == []


def test_a_layer_at_its_equilibrium_is_no_news(make_result, make_layer):
    assert codes(alone(make_result, make_layer)) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"log_ratio": math.log(2.1), "steps_to_equilibrium": 700.0}, "far-from-equilibrium"),
        ({"log_ratio": -math.log(2.1), "steps_to_equilibrium": 700.0}, "far-from-equilibrium"),
        ({"observed_rotation": 0.02, "expected_rotation": 0.01}, "rotation-off"),
        ({"observed_rotation": 0.014, "expected_rotation": 0.01}, "rotation-above-law"),
        ({"forecast_doubtful": True, "norm_ratio": 1.3}, "forecast-doubtful"),
        ({"inactive": 30}, "entries-without-gradient"),
        ({"units_without_size": 2}, "units-without-size"),
        ({"relaxation_steps": 29.0}, "relaxation-too-short"),
        ({"verdict": "none", "log_ratio": NOT_INVARIANT}, "not-scale-invariant"),
        ({"granularity": "joint"}, "invariant-with-bias"),
    ],
)
def test_what_is_said(make_result, make_layer, changes, code):
    assert codes(alone(make_result, make_layer, **changes)) == [(code, "info")]


@pytest.mark.parametrize(
    "changes",
    [
        {"log_ratio": math.log(1.9)},
        {"observed_rotation": 0.0109, "expected_rotation": 0.01},
        {"observed_rotation": 0.005, "expected_rotation": 0.02},  # back and forth in its valley
    ],
)
def test_what_is_not(make_result, make_layer, changes):
    assert codes(alone(make_result, make_layer, **changes)) == []


def test_a_norm_that_explains_the_rotation_is_taken_into_account(make_result, make_layer):
    """SGD at twice the norm turns a quarter as fast."""
    slow = {"log_ratio": math.log(1.9), "observed_rotation": 0.01 / 1.9**2, "expected_rotation": 0.01}
    assert codes(alone(make_result, make_layer, **slow)) == []
    (finding,) = judge(alone(make_result, make_layer, **{**slow, "observed_rotation": 0.01}))
    assert finding.code == "rotation-off" and finding.value == pytest.approx(1.9**2)


def test_angles_that_saturate_are_compared_as_the_walks_they_come_from(make_result, make_layer):
    """Noise alone, held at twice the norm, for four relaxation times and for a twentieth of one."""
    for turned in (4.0, 0.05):
        expected, observed = (math.acos(math.exp(-turned * scale)) for scale in (1.0, 2.0**-4))
        walk = {"log_ratio": math.log(1.99), "observed_rotation": observed, "expected_rotation": expected}
        assert codes(alone(make_result, make_layer, **walk)) == []
    opposite = {"observed_rotation": 2.0, "expected_rotation": 0.3}
    (finding,) = judge(alone(make_result, make_layer, **opposite))
    assert finding.code == "rotation-off" and finding.value == pytest.approx(
        math.sqrt(math.log(100.0) / -math.log(math.cos(0.3)))
    )


def test_a_norm_that_moved_on_the_way_explains_no_angle(make_result, make_layer):
    def found(log_ratio, relaxation):
        layer = make_layer(
            log_ratio=log_ratio, relaxation_steps=relaxation, observed_rotation=0.5, expected_rotation=0.1
        )
        return [finding.code for finding in judge(make_result(steps=(0, 1000, 2000), layers=(layer,)))]

    assert found(math.log(1.9), 3900.0) == ["rotation-above-law"]
    assert found(math.log(1.9), 4100.0) == found(0.01, 3900.0) == ["rotation-off"]


def test_layers_that_turned_further_than_the_law_are_named_with_the_reason(make_result, make_layer):
    def layer(name, log_ratio, observed):
        return make_layer(
            name,
            log_ratio=log_ratio,
            relaxation_steps=5000.0,
            steps_to_equilibrium=1.0,
            observed_rotation=observed,
            expected_rotation=0.2,
        )

    layers = (layer("a", 0.0, 0.224), layer("b", 0.0, 0.25), layer("c", -0.3, 0.25), layer("d", 0.0, 0.219))
    agree, unsettled = judge(make_result(layers=layers))
    assert agree.code == unsettled.code == "rotation-above-law" and agree.severity == "info" and agree.value == 2
    assert "up to 25 % further" in agree.message and "agree more than random ones: a, b" in agree.message
    assert "have not settled: c" in unsettled.message and unsettled.layer == "c"


def test_the_forecast_that_is_refuted_most_is_named(make_result, make_layer):
    layers = [
        make_layer(name, log_ratio=0.0, relaxation_steps=5000.0, norm_ratio=ratio, forecast_doubtful=doubtful)
        for name, ratio, doubtful in (("a", 1.3, True), ("b", 0.5, True), ("c", 1.1, False))
    ]
    (finding,) = judge(make_result(layers=tuple(layers)))
    assert (finding.code, finding.severity, finding.layer) == ("forecast-doubtful", "info", "b")
    assert (finding.value, finding.limit) == (0.5, 0.8) and "2 of 3 layers" in finding.message


def test_layers_that_are_not_trained_are_not_called_silent(make_result, make_layer):
    frozen = make_layer("f", verdict="none", log_ratio=NOT_INVARIANT, relaxation_steps=5000.0, unchanged=True)
    assert codes(make_result(layers=(frozen,))) == []


@pytest.mark.parametrize(("count", "words"), [(1, "has no equilibrium norm:"), (2, "nor has one"), (4, "nor have 3")])
def test_norms_that_grow_for_ever_are_named(make_result, make_layer, count, words):
    layers = tuple(
        make_layer(f"w{index}", growth_per_step=1e-4 * (index + 1), log_ratio=NOT_INVARIANT, relaxation_steps=None)
        for index in range(count)
    )
    (finding,) = judge(make_result(layers=layers))
    assert (finding.severity, finding.layer) == ("info", f"w{count - 1}") and words in finding.message


@pytest.mark.parametrize(
    ("optimizer", "decay", "words"),
    [("lars", "decoupled", "part of the gradient"), ("lars", "coupled", "Decay the"), ("sgd", "coupled", "Decay the")],
)
def test_the_remedy_is_one_that_the_run_has_not_taken(make_result, make_layer, optimizer, decay, words):
    layer = make_layer(growth_per_step=1e-4, log_ratio=NOT_INVARIANT, relaxation_steps=None)
    (finding,) = judge(make_result(layers=(layer,), optimizer=optimizer, decay=decay))
    assert words in finding.hint


def test_the_decay_that_would_keep_the_norm_of_lars(make_result, make_layer):
    """½ ln(1+(η'H)²) = η·wd at η' = H·η = 0.2 and η = 0.02."""
    growth = 0.5 * math.log1p(0.2**2) - 0.02 * 0.3
    layer = make_layer(growth_per_step=growth, learning_rate=0.02, weight_decay=0.3, log_ratio=NOT_INVARIANT)
    (finding,) = judge(make_result(layers=(layer,), optimizer="lars", decay="decoupled"))
    assert f"only a decay of {0.5 * math.log1p(0.2**2) / 0.02:.3g} holds it" in finding.hint


def test_the_way_is_told_in_epochs_where_they_are_known(make_result, make_layer):
    (finding,) = judge(alone(make_result, make_layer, log_ratio=1.0, steps_to_equilibrium=440.0))
    assert "440 steps (20 epochs) away: it turns more slowly" in finding.message


def test_lars_turns_alike_at_every_norm(make_result, make_layer):
    layer = make_layer(log_ratio=1.0, steps_to_equilibrium=440.0, relaxation_steps=5000.0)
    (finding,) = judge(make_result(layers=(layer,), optimizer="lars"))
    assert finding.code == "far-from-equilibrium" and finding.message.endswith("440 steps (20 epochs) away")


def test_memory(make_result):
    assert memory_steps(make_result()) == pytest.approx(10.0)
    assert memory_steps(make_result(betas=(0.9, 0.999), momentum=None)) == pytest.approx(1000.0)
    assert memory_steps(make_result(momentum=None)) == 1.0


def test_a_rate_that_changes_in_unknown_ways_is_said_first(make_result):
    first, *_ = judge(make_result(schedule_doubt="it fell"))
    assert (first.code, first.severity) == ("schedule-unknown", "info") and "not constant: it fell" in first.message
    assert "--total-steps" in first.hint


@pytest.mark.parametrize(("gap", "count"), [(None, 0), (0.019, 0), (0.03, 1)])
def test_a_schedule_that_the_saved_rates_do_not_follow_is_a_warning(make_result, gap, count):
    found = [finding for finding in judge(make_result(schedule_gap=gap)) if finding.code == "schedule-mismatch"]
    assert [(finding.severity, finding.value) for finding in found] == [("warn", gap)] * count
