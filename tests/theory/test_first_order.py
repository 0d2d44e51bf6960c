"""Losses of known slope and curvature, right and wrong gradients."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.first_order import SlopeCheck, check_slope

ETAS = [10 ** (-4 + k / 4) for k in range(17)]
slopes = st.floats(0.01, 100.0).flatmap(lambda size: st.sampled_from([size, -size]))


def parabola(slope: float, curvature: float, claimed: float, rounding: float = 0.0) -> SlopeCheck:
    """L = 1 + s eta + c eta²/2, rounded upwards and downwards in turn, where the gradient claims another slope."""
    losses = [
        1.0 + slope * eta + 0.5 * curvature * eta**2 + (rounding if place % 2 else -rounding)
        for place, eta in enumerate(ETAS)
    ]
    return check_slope(claimed, 1.0, ETAS, losses, [abs(curvature) * eta**2 for eta in ETAS], rounding=rounding)


@given(slopes, st.floats(-1e5, 1e5), st.floats(0.0, 1e-3))
def test_the_gradient_of_a_parabola_is_never_accused(slope: float, curvature: float, rounding: float) -> None:
    found = parabola(slope, curvature, slope, rounding)
    assert not found.contradicted
    if rounding == 0.0:
        assert found.measured == pytest.approx(slope, rel=1e-6, abs=1e-6 * abs(curvature) * ETAS[0])


@given(slopes, st.floats(-2.0, 0.7))
def test_a_slope_that_is_wrong_by_more_than_the_slack_is_found(slope: float, share: float) -> None:
    found = parabola(slope * share, slope, slope)
    assert found.contradicted and found.measured == pytest.approx(share * slope, rel=1e-6, abs=1e-6 * abs(slope))


def test_what_rounding_or_curvature_hides_is_not_judged() -> None:
    assert parabola(-1.0, 0.0, 1.0, rounding=1.0) == SlopeCheck(1.0, None, None, False)
    assert not parabola(-1.0, 1e5, 1.0).contradicted
    assert parabola(-1.0, 0.0, 1.0, rounding=1e-3).eta == pytest.approx(
        10**-2.5
    )  # 3.16 of them, and 4.16 with what is rounded


def test_a_constant_loss_with_a_gradient_is_found_and_one_without_is_not() -> None:
    still = [1.0] * 17
    assert check_slope(-0.5, 1.0, ETAS, still, [0.0] * 17, rounding=1e-7).contradicted
    assert check_slope(0.0, 1.0, ETAS, still, [0.0] * 17, rounding=1e-7) == SlopeCheck(0.0, None, None, False)


def test_one_point_decides_alone_and_one_that_is_not_finite_is_passed_over() -> None:
    assert check_slope(-1.0, 0.0, [0.1], [0.1], [0.0], rounding=0.0).contradicted
    assert check_slope(-1.0, 0.0, [0.1, 0.2], [math.nan, -0.2], [0.0, 0.0], rounding=0.0).measured == pytest.approx(
        -1.0
    )
    assert check_slope(-1.0, 0.0, [], [], [], rounding=0.0).measured is None
