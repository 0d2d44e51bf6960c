from collections.abc import Callable
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.breakdown.derived import NOWHERE, OTHER_GRADIENT, TOO_SMALL
from fromage_cli.diagnostics.breakdown.findings import EARLY, judge
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown, SkippedTensor
from fromage_cli.findings import Finding
from fromage_cli.missing import LIMIT_REACHED, Missing

MakeLayer = Callable[..., LayerBreakdown]
MakeResult = Callable[..., BreakdownResult]


def codes(result: BreakdownResult) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in judge(result)]


def test_an_ordinary_curve_says_only_where_it_overflows(make_result: MakeResult) -> None:
    assert codes(make_result()) == [("loss-overflows", "info")]


@pytest.mark.parametrize("eta", [9e-4, 1e-4, 2e-5])
def test_a_layer_that_breaks_down_early_is_named(make_result: MakeResult, make_layer: MakeLayer, eta: float) -> None:
    early = make_layer("deep.weight", trust_eta=eta)
    finding = judge(make_result(layers=(make_layer(), early)))[0]
    assert (finding.code, finding.severity, finding.layer) == ("breakdown-early", "info", "deep.weight")
    assert (finding.value, finding.limit) == (eta, EARLY)


def test_a_crossing_below_the_grid_counts_from_its_first_point(make_result: MakeResult, make_layer: MakeLayer) -> None:
    below = make_layer(trust_eta=NOWHERE["below-grid"], trust_relation="below-grid", trust_eta_upper=1e-4)
    grid = (1e-4, 1e-3, 1e-2, 1e-1)
    finding = judge(make_result(etas=grid, layers=(below,)))[0]
    assert (finding.code, finding.severity, finding.value) == ("breakdown-early", "info", 1e-4)
    assert "--eta" in finding.hint


def test_an_early_crossing_that_may_be_roundings_blames_no_layer(
    make_result: MakeResult, make_layer: MakeLayer
) -> None:
    result = make_result(layers=(make_layer(trust_eta=4e-4, noise_floor=0.6),), precision="bfloat16")
    assert [code for code, _ in codes(result)] == ["noisy-gradient", "loss-overflows"]


def test_a_crossing_above_the_grid_is_no_finding(make_result: MakeResult, make_layer: MakeLayer) -> None:
    above = make_layer(trust_eta=NOWHERE["above-grid"], trust_relation="above-grid")
    assert codes(make_result(layers=(above,))) == [("loss-overflows", "info")]


def test_an_ascending_step_is_named(make_result: MakeResult, make_layer: MakeLayer) -> None:
    up = make_layer(cosine=-0.2, trust_eta=NOWHERE["uncertifiable"], trust_relation="uncertifiable")
    assert codes(make_result(layers=(up,)))[0] == ("step-ascends", "info")
    assert judge(make_result(layers=(up,)))[0].hint == "Judge by the line “Sure as a whole”."
    assert judge(make_result(layers=(up,), aggregate_trust_relation="below-grid"))[0].hint == ""


def test_a_gradient_of_another_loss_is_a_warning(make_result: MakeResult) -> None:
    refused = {"trust_eta": OTHER_GRADIENT, "loss_bounds": (OTHER_GRADIENT,) * 4}
    finding = judge(make_result(contradicted=True, loss_slope=-3.0, measured_loss_slope=1.5, **refused))[0]
    assert (finding.code, finding.severity) == ("gradient-is-not-the-losses", "warn")
    assert (finding.value, finding.limit) == (1.5, -3.0) and "straight-through" in finding.hint


def test_steps_that_cannot_be_made_are_counted(make_result: MakeResult) -> None:
    finding = judge(make_result(loss_bounds=(TOO_SMALL, TOO_SMALL, -0.1, -0.1)))[0]
    assert (finding.code, finding.severity, finding.value) == ("steps-too-small", "info", 0.025)
    assert "float32 cannot make steps of η = 0.025 or less: 2 steps not judged" in finding.message


def test_rounding_is_no_warning_under_autocast(make_result: MakeResult, make_layer: MakeLayer) -> None:
    result = make_result(layers=(make_layer(noise_floor=0.05),), precision="bfloat16")
    assert codes(result)[0] == ("noisy-gradient", "info") and "--autocast" in judge(result)[0].hint


def test_noise_names_the_worst_layer(make_result: MakeResult, make_layer: MakeLayer) -> None:
    layers = (make_layer(noise_floor=0.002), make_layer("worst", noise_floor=0.5))
    finding = judge(make_result(layers=layers))[0]
    assert (finding.code, finding.layer, finding.value) == ("noisy-gradient", "worst", 0.5)


def test_gradients_that_are_rounding_are_named(make_result: MakeResult) -> None:
    finding = judge(make_result(noise=("conv.bias",)))[0]
    assert (finding.code, finding.severity, finding.layer) == ("gradient-is-rounding", "info", "conv.bias")


def test_a_grid_that_starts_too_late_is_a_warning(make_result: MakeResult, make_layer: MakeLayer) -> None:
    below = make_layer(trust_eta=NOWHERE["below-grid"], trust_relation="below-grid")
    place = {"trust_eta": NOWHERE["below-grid"], "trust_relation": "below-grid", "trust_eta_upper": 0.01}
    result = make_result(layers=(below,), **place)
    assert ("grid-starts-late", "warn") in codes(result)


def test_a_crossing_between_distant_points_is_said(make_result: MakeResult) -> None:
    distant = make_result(etas=(0.001, 0.01, 0.1, 1.0))
    assert ("grid-wide", "info") in codes(distant)
    assert ("grid-wide", "info") not in codes(replace(distant, trust_eta_upper=0.1))  # beside what is not finite


def test_a_vector_is_judged_by_its_own_relative_step_where_no_matrix_moves(
    make_result: MakeResult, make_layer: MakeLayer
) -> None:
    vector = make_layer("norm.bias", shape=(64,), trust_eta=0.02, relative_step=0.01)
    assert "breakdown-early" not in {one.code for one in judge(make_result(layers=(make_layer(), vector)))}
    finding = judge(make_result(layers=(vector,), direction="sgd"))[0]
    assert (finding.code, finding.layer, finding.value) == ("breakdown-early", "norm.bias", 0.02 * 0.01)
    assert codes(make_result(layers=(vector,), direction="to:x")) == [("loss-overflows", "info")]


def test_tensors_that_stand_still_are_counted(make_result: MakeResult, still_tensor: SkippedTensor) -> None:
    frozen = SkippedTensor("frozen.weight", "frozen")
    zero = judge(make_result(skipped=(still_tensor, frozen)))[0]
    assert (zero.code, zero.message) == ("gradient-is-zero", "the gradient of 1 tensor is exactly 0: layers.2.weight")
    finding = judge(make_result(skipped=(replace(still_tensor, reason="zero weights"), frozen)))[0]
    assert finding == Finding(
        "tensor-still",
        "info",
        "left out: 1 tensor of zeros or of zero steps: layers.2.weight",
        "layers.2.weight",
        1.0,
        0.0,
        "A relative step is not defined for them.",
    )


def test_a_loss_above_the_bound_of_lemma_1_means_a_coarse_grid(make_result: MakeResult) -> None:
    result = make_result(losses=(0.49, 0.56, 0.61, 0.7))
    assert codes(result) == [("grid-too-coarse", "info")]


def test_a_missing_second_derivative_is_said(make_result: MakeResult) -> None:
    result = make_result(
        linear_trust_eta=NOWHERE["unavailable"], linear_trust_relation="unavailable", losses=(0.49, 0.42, 0.61, 0.7)
    )
    assert codes(result) == [("no-second-derivative", "info")]
    assert codes(replace(result, linear_trust_eta=LIMIT_REACHED)) == []  # it was not looked for


@pytest.mark.parametrize(("slope", "told"), [(0.2, True), (0.26, False), (NOWHERE["above-grid"], False)])
def test_a_slope_that_promises_far_less_than_the_curve_shows_asks_for_a_closer_look(
    make_result: MakeResult, slope: float | Missing, told: bool
) -> None:
    found = [each for each in judge(make_result(trust_eta=1.0, linear_trust_eta=slope)) if "curvature" in each.code]
    assert bool(found) is told
    if told:
        assert found[0].value == pytest.approx(5.0) and found[0].message.startswith("check with --eta 0.05:1:33: ")


def test_layers_of_nearly_zero_weights_are_named(make_result: MakeResult) -> None:
    (finding,) = [each for each in judge(make_result(without_size=("token",))) if each.code == "layers-without-size"]
    assert (finding.severity, finding.layer) == ("info", "token")
    assert finding.message.startswith("η does not count 1 layer with weights near zero: token")
