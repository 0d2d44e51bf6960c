"""What is read off a curve: synthetic numbers, cosines and relative steps that are not one, curves that fall again."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.breakdown import derived
from fromage_cli.diagnostics.breakdown.result import LayerBreakdown
from fromage_cli.missing import Missing
from fromage_cli.probes.lines.direction import Direction, Move
from fromage_cli.probes.lines.ray import Ray
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.curves import Point
from fromage_cli.theory.first_order import check_slope
from fromage_cli.theory.siblings import OutOfLine

ETAS = [0.01, 0.02, 0.04, 0.08]


def move(name: str, cosine: float, relative_step: float, *shape: int) -> Move:
    """A tensor of norm 2 and gradient norm 5."""
    tensor = TrainableTensor(name, nn.Parameter(torch.zeros(*shape)), "Linear")
    return Move(tensor, 1.0, 2.0, 5.0, 2.0 * relative_step, cosine)


FIRST, SECOND = move("first", 0.5, 0.25, 3, 3), move("second", 0.8, 1.0, 3, 3)


def ray(first: list[float], second: list[float]) -> Ray:
    """Changes so that the breakdowns are those given; the floor is a hundredth of the gradient's 1e-4."""
    changes = {"first": [5.0 * b for b in first], "second": [5.0 * b for b in second]}
    return Ray(ETAS, [0.0] * 4, changes, {"first": 5e-6, "second": 5e-6})


def direction(*moves: Move) -> Direction:
    return Direction("sgd", 3.0, moves, (), lambda tensor: tensor.parameter)


def test_trust_is_where_the_running_maximum_reaches_the_cosine() -> None:
    layer = derived.layer_breakdown(FIRST, ray([0.25, 1.0, 0.1, 2.0], [0.0] * 4), [1.0] * 4, None)
    assert layer.path_breakdown == (0.25, 1.0, 1.0, 2.0)
    assert layer.trust_eta == pytest.approx(0.01 * math.sqrt(2))  # ln b is linear in ln eta: b = 100 eta^... through .5
    assert layer.implied_depth == pytest.approx(math.log(1.5) / math.log1p(0.25 * 0.01 * math.sqrt(2)))


def test_a_curve_that_falls_again_keeps_its_maximum() -> None:
    found = ray([0.1, 0.6, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4])
    assert derived.layer_breakdown(FIRST, found, [1.0] * 4, None).trust_relation == "crossing"
    assert derived.layer_breakdown(SECOND, found, [1.0] * 4, None).trust_relation == "above-grid"


def test_the_prediction_takes_each_layer_by_its_own_relative_step() -> None:
    exact = [(1 + 0.25 * eta) * (1 + eta) - 1 for eta in ETAS]
    assert derived.predicted(direction(FIRST, SECOND), ETAS) == pytest.approx(exact)


def test_the_violation_is_a_median_between_noise_and_one() -> None:
    found = ray([1e-6, 0.2, 0.3, 1.5], [0.0] * 4)  # below ten floors, counted, counted, above one
    layer = derived.layer_breakdown(FIRST, found, [0.1, 0.1, 0.1, 0.1], None)
    assert layer.violation == pytest.approx(2.5)
    three = ray([0.1, 0.2, 0.9, 1.5], [0.0] * 4)
    assert derived.layer_breakdown(FIRST, three, [0.1] * 4, None).violation == pytest.approx(2.0)


def test_the_slope_is_held_against_the_cosine() -> None:
    found = ray([0.1] * 4, [0.1] * 4)
    products = {"first": 5.0 * 4.0, "second": 5.0 * 6.0}  # slopes 4 and 6, cosines .5 and .8
    assert derived.linear_trust(direction(FIRST, SECOND), products, found) == (pytest.approx(0.125), "crossing")
    up = move("up", -0.1, 1.0, 3)
    found.changes["up"], found.floors["up"] = [0.1] * 4, 0.0
    assert derived.linear_trust(direction(FIRST, up), products, found) == (None, "uncertifiable")
    assert derived.linear_trust(direction(FIRST), None, found) == (None, "unavailable")


def test_the_bound_of_lemma_1_keeps_the_running_maximum() -> None:
    found = ray([0.1, 0.6, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4])
    exact = [
        -5.0 * 2.0 * (0.25 * eta * (0.5 - first) + eta * (0.8 - second))
        for eta, first, second in zip(ETAS, [0.1, 0.6, 0.6, 0.6], [0.1, 0.2, 0.3, 0.4], strict=True)
    ]
    assert derived.loss_bounds(direction(FIRST, SECOND), found) == pytest.approx(exact)


def test_the_sum_crosses_where_the_interpolated_breakdowns_balance() -> None:
    found = ray([0.1, 0.2, 0.4, 0.8], [0.2, 0.4, 0.8, 1.6])  # b = 10 eta and 20 eta
    bounds = derived.loss_bounds(direction(FIRST, SECOND), found)
    point = derived.aggregate_trust(direction(FIRST, SECOND), found, bounds)
    exact = (0.25 * 0.5 + 0.8) / (0.25 * 10 + 20)
    assert point.eta == pytest.approx(exact, rel=1e-6)


def test_a_sum_beside_overflow_lies_between_two_points_and_certifies_only_the_finite_one() -> None:
    found = ray([0.1, 0.2, math.inf, math.inf], [0.1, 0.2, math.nan, math.nan])
    bounds = derived.loss_bounds(direction(FIRST, SECOND), found)
    assert derived.aggregate_trust(direction(FIRST, SECOND), found, bounds) == Point(0.02, "crossing", 0.04)
    assert derived.layer_breakdown(FIRST, found, [1.0] * 4, None).trust_eta_upper == 0.04


def test_where_one_tensor_begins_at_its_floor_the_sum_is_certain_with_the_larger_value() -> None:
    found = ray([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.2, 2.0])
    found.floors = {"first": 0.0, "second": 0.0}
    point = derived.aggregate_trust(
        direction(FIRST, SECOND), found, derived.loss_bounds(direction(FIRST, SECOND), found)
    )
    assert point.eta == pytest.approx(0.02)  # at 1.2 the second loses .4 eta, where the first gains .125 eta


def test_values_below_their_noise_floor_and_steps_that_cannot_be_made_are_missing() -> None:
    found = ray([0.0, 1e-7, 0.2, 0.4], [0.1] * 4)
    found.first = 1
    layer = derived.layer_breakdown(FIRST, found, [1.0] * 4, None)
    assert layer.breakdown == (derived.TOO_SMALL, derived.BELOW_FLOOR, 0.2, 0.4)
    assert layer.path_breakdown == layer.breakdown and layer.trust_relation == "above-grid"
    assert len(derived.loss_bounds(direction(FIRST, SECOND), found)) == 3
    found.first = 4
    refused = derived.refusal(direction(FIRST), found, check_slope(-1.0, 0.0, [], [], [], rounding=0.0))
    layer = derived.layer_breakdown(FIRST, found, [1.0] * 4, refused)
    assert refused == layer.trust_eta == derived.TOO_SMALL and layer.trust_relation == "uncertifiable"


def test_only_losses_that_changed_by_more_than_rounding_are_read() -> None:
    found = ray([0.1] * 4, [0.1] * 4)
    found.losses, found.loss_floor = [0.999, 1.001, 0.7, math.nan], 0.01
    places, changes = derived.loss_points(found, 1.0)
    assert places == [0.04, 0.08] and changes[0] == pytest.approx(-0.3) and math.isnan(changes[1])


def test_the_worst_layer_below_the_grid_limits_the_network() -> None:
    found = ray([0.6, 0.7, 0.8, 0.9], [1.6, 1.7, 1.8, 1.9])
    point, limiting = derived.network_trust(direction(FIRST, SECOND), found)
    assert (point.relation, point.upper, limiting) == ("below-grid", 0.01, "second")


def test_the_network_is_as_sure_as_its_first_layer_alone() -> None:
    found = ray([0.1, 0.6, 0.2, 0.1], [0.1, 0.2, 0.3, 1.4])
    layers = [derived.layer_breakdown(m, found, [1.0] * 4, None) for m in (FIRST, SECOND)]
    point, limiting = derived.network_trust(direction(FIRST, SECOND), found)
    assert (point.eta, limiting) == (layers[0].trust_eta, "first")
    assert derived.network_trust(direction(SECOND), found)[0].eta == layers[1].trust_eta
    assert derived.network_trust(direction(FIRST), ray([0.1] * 4, [0.1] * 4)) == (Point(None, "above-grid"), None)
    up = move("up", -0.1, 1.0, 3, 3)
    found.changes["up"], found.floors["up"] = [0.1] * 4, 0.0
    assert derived.network_trust(direction(FIRST, up), found) == (Point(None, "uncertifiable"), "up")


def test_vectors_are_judged_together_each_by_its_share_of_the_descent() -> None:
    """One with b = 20 eta and cosine .1 is sure to .005 alone; beside it stands one three times as large."""
    small, large = move("small", 0.1, 1.0, 3), move("large", 0.9, 3.0, 3)
    found = ray([0.01, 0.01, 0.01, 0.01], [0.01, 0.01, 0.01, 0.01])
    found.changes |= {"small": [5.0 * 20.0 * eta for eta in ETAS], "large": [5.0 * 20.0 * eta for eta in ETAS]}
    found.floors |= {"small": 0.0, "large": 0.0}
    line = direction(FIRST, small, large)
    point, limiting = derived.network_trust(line, found)
    assert point.eta == pytest.approx((0.1 + 3.0 * 0.9) / 4.0 / 20.0) and limiting == "large"
    slopes = {"first": 0.0, "small": 5.0 * 20.0, "large": 5.0 * 20.0}
    assert derived.linear_trust(line, slopes, found)[0] == pytest.approx(point.eta)
    uphill = move("uphill", -0.9, 3.0, 3)
    found.changes["uphill"], found.floors["uphill"] = [0.1] * 4, 0.0
    assert derived.network_trust(direction(FIRST, small, uphill), found) == (Point(None, "uncertifiable"), "uphill")


def test_a_place_is_a_number_or_the_side_of_the_grid_that_it_lies_on() -> None:
    assert derived.placed(0.1, "crossing") == 0.1
    for relation in ("above-grid", "below-grid", "uncertifiable"):
        place = derived.placed(None, relation)
        assert isinstance(place, Missing) and place.code == relation


def test_the_ends_of_siblings_are_judged_by_their_weights_alone(make_layer: Callable[..., LayerBreakdown]) -> None:
    gradients = [50.0, 1.0, 1.0, 50.0, 1.0, 1.0, 1.0]
    layers = [make_layer(f"layers.{k}.weight", gradient_norm=gradient) for k, gradient in enumerate(gradients)]
    assert derived.odd_layers(layers, ()) == (OutOfLine("layers.3.weight", "gradient", pytest.approx(50.0)),)
    assert derived.odd_layers(layers, ("layers.3.weight",)) == ()
    layers[0] = make_layer("layers.0.weight", weight_norm=46.0, gradient_norm=1.0)
    assert derived.odd_layers(layers, ())[0] == OutOfLine("layers.0.weight", "weights", pytest.approx(10.0))
