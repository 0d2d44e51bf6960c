import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.curves import (
    Point,
    first_crossing,
    first_sign_change,
    loss_places,
    minimum,
    running_maximum,
    tail_slope,
)

GRID = [10 ** (-4 + k / 4) for k in range(17)]


def test_the_running_maximum_counts_what_is_not_a_number_as_infinite() -> None:
    assert running_maximum([1.0, 0.5, 2.0, math.nan, 3.0]) == [1.0, 1.0, 2.0, math.inf, math.inf]


@given(st.floats(1e-3, 0.5), st.floats(0.3, 3.0), st.floats(0.05, 1.0))
def test_a_power_law_is_crossed_where_it_says(place: float, exponent: float, level: float) -> None:
    values = [level * (eta / place) ** exponent for eta in GRID]
    assert first_crossing(GRID, values, level).eta == pytest.approx(place, rel=1e-9)


def test_crossings_outside_the_grid_are_named() -> None:
    assert first_crossing(GRID, [2.0] * 17, 1.0) == Point(None, "below-grid", GRID[0])
    assert first_crossing(GRID, [0.5] * 17, 1.0) == Point(None, "above-grid")
    assert first_crossing(GRID, [0.0] * 17, 0.0) == Point(None, "uncertifiable")
    assert first_crossing(GRID, [0.0] * 17, -0.1) == Point(None, "uncertifiable")


def test_a_crossing_into_overflow_lies_between_the_last_finite_point_and_the_next() -> None:
    assert first_crossing([0.1, 0.2], [0.5, math.inf], 1.0) == Point(0.1, "crossing", 0.2)
    assert first_crossing([0.1, 0.2], [0.0, 2.0], 1.0) == Point(0.1, "crossing", 0.2)
    assert minimum([0.1, 0.2], [1.0, math.nan], 2.0) == Point(0.1, "crossing", 0.2)


def test_the_first_sign_change_is_linear_in_log_eta() -> None:
    assert first_sign_change([0.01, 0.1], [-1.0, 1.0]).eta == pytest.approx(math.sqrt(0.001))
    assert first_sign_change([0.01, 0.1], [1.0, 1.0]).relation == "below-grid"
    assert first_sign_change([0.01, 0.1], [-1.0, -1.0]).relation == "above-grid"
    assert first_sign_change([0.01, 0.1], [-1.0, math.nan]) == Point(0.01, "crossing", 0.1)


def test_the_minimum_of_a_parabola_in_log_eta_is_exact() -> None:
    values = [(math.log(eta) - math.log(0.0123)) ** 2 for eta in GRID]
    assert minimum(GRID, values, 100.0).eta == pytest.approx(0.0123, rel=1e-9)


def test_a_minimum_at_an_end_is_named() -> None:
    assert minimum([0.1, 0.2, 0.3], [6.0, 7.0, 8.0], 5.0).relation == "below-grid"
    assert minimum([0.1, 0.2, 0.3], [3.0, 2.0, 1.0], 5.0).relation == "above-grid"
    assert minimum([0.1, 0.2, 0.3], [3.0, 2.0, 3.0], 1.0).relation == "below-grid"


@pytest.mark.parametrize("place", [0.06, 0.1, 0.14])
def test_a_minimum_near_the_first_point_uses_the_start(place: float) -> None:
    etas = [0.1, 0.3, 1.0]
    found = minimum(etas, [(eta - place) ** 2 for eta in etas], place**2)
    assert found.eta == pytest.approx(place)


def test_a_loss_without_lower_bound_is_least_where_it_ends() -> None:
    assert minimum([0.1, 0.2, 0.3], [3.0, 2.0, -math.inf], 5.0).relation == "above-grid"
    assert first_sign_change([0.1, 0.2], [-math.inf, 1.0]) == Point(0.1, "crossing", 0.2)


def test_a_minimum_beside_overflow_stays_on_the_grid() -> None:
    assert minimum([0.1, 0.2, 0.3], [3.0, 2.0, math.inf], 5.0).eta == pytest.approx(0.2)


@given(st.floats(1, 200))
def test_the_tail_slope_of_a_power_of_one_plus_eta_is_its_exponent(exponent: float) -> None:
    dense = [0.001 * k for k in range(1, 151)]
    values = [(1 + eta) ** exponent - 1 for eta in dense]
    assert tail_slope(dense, values) == pytest.approx(exponent, rel=1e-6)


def test_the_tail_slope_of_the_default_grid_interpolates() -> None:
    values = [(1 + eta) ** 16 - 1 for eta in GRID]
    assert tail_slope(GRID, values) == pytest.approx(16, rel=0.02)


def test_a_grid_that_misses_the_window_has_no_tail_slope() -> None:
    assert tail_slope([1e-4, 1e-3], [0.1, 0.2]) is None
    assert tail_slope([0.04, 0.08, 0.2], [1.0, math.inf, math.inf]) is None


def test_a_grid_too_coarse_tells_between_which_points_the_loss_turns() -> None:
    assert loss_places([0.01, 1.0, 100.0], [-3.0, 9.0, math.inf]) == (
        Point(0.0, "crossing", 1.0),
        Point(0.01, "crossing", 1.0),
    )
    assert loss_places([0.01, 0.1, 1.0], [-1.0, -3.0, 9.0]) == (
        Point(0.01, "crossing", 1.0),
        Point(0.1, "crossing", 1.0),
    )
    assert loss_places([], []) == (Point(None, "above-grid"), Point(None, "above-grid"))
    assert loss_places([0.01], [1.0]) == (Point(None, "below-grid", 0.01), Point(None, "below-grid", 0.01))
    assert loss_places([0.01, 0.02], [-1.0, math.nan])[0] == Point(0.01, "crossing", 0.02)


def test_on_a_fine_grid_the_loss_is_least_where_a_parabola_is() -> None:
    least, increase = loss_places(GRID, [eta * (eta - 0.05) for eta in GRID])
    assert least.eta == pytest.approx(0.025, rel=0.1) and increase.eta == pytest.approx(0.05, rel=0.1)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(1.1, 20))
def test_the_loss_is_never_least_beyond_its_first_increase(changes: list[float], factor: float) -> None:
    least, increase = loss_places([0.001 * factor**power for power in range(len(changes))], changes)
    if least.eta is not None and increase.eta is not None:
        assert least.eta <= increase.eta and (least.upper is None or increase.upper is not None)
