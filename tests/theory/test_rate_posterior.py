"""Beliefs and what they say together, against closed forms of Student's t and integrals on a fine grid."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.rate_posterior import FINENESS, REACH, Belief, posterior


def below(freedom: int, place: float) -> float:
    """The probability of less than so many scales, of Student's t with 3 or 4 degrees of freedom."""
    if freedom == 3:
        root = place / math.sqrt(3.0)
        return 0.5 + (root / (1.0 + root * root) + math.atan(root)) / math.pi
    bend = 1.0 + place * place / 4.0
    return 0.5 + 0.375 * place / math.sqrt(bend) * (1.0 - place * place / bend / 12.0)


@pytest.mark.parametrize("freedom", [3, 4])
@pytest.mark.parametrize("scale", [0.5, 1.2])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8, 0.9])
def test_quantiles_of_one_belief_are_those_of_students_t(freedom: int, scale: float, share: float) -> None:
    quantile = posterior([Belief(-5.0, scale, freedom)]).quantile(share)
    assert below(freedom, (quantile + 5.0) / scale) == pytest.approx(share, abs=2e-3)


def test_places_lie_at_equal_distances_and_their_weights_sum_to_one() -> None:
    found = posterior([Belief(-3.0, 1.0, 3.0), Belief(2.0, 0.5, 4.0)])
    assert (found.octaves[0], found.octaves[-1]) == (-3.0 - REACH, 2.0 + REACH)
    assert math.fsum(found.weights) == pytest.approx(1.0)
    steps = {second - first for first, second in zip(found.octaves, found.octaves[1:], strict=False)}
    assert steps == {1.0 / FINENESS}


@given(st.floats(0.25, 2.0), st.floats(0.0, 8.0), st.sampled_from([0.02, 0.1, 0.3]))
def test_two_equally_wide_beliefs_meet_halfway(scale: float, apart: float, share: float) -> None:
    half = round(apart * FINENESS) / FINENESS / 2.0
    found = posterior([Belief(1.0 - half, scale, 3.0), Belief(1.0 + half, scale, 3.0)])
    assert found.quantile(0.5) == pytest.approx(1.0, abs=1e-6)
    assert found.quantile(share) + found.quantile(1.0 - share) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("apart", [-8.0, 8.0])
def test_of_two_that_are_far_apart_the_narrower_wins(apart: float) -> None:
    narrow, wide = Belief(0.0, 0.4, 4.0), Belief(apart, 2.0, 4.0)
    alone, together = posterior([narrow]), posterior([wide, narrow])
    assert together.quantile(0.5) == pytest.approx(0.0, abs=0.3)
    assert together.quantile(0.9) - together.quantile(0.1) < 1.3 * (alone.quantile(0.9) - alone.quantile(0.1))


def test_two_sources_that_agree_tell_more_than_one() -> None:
    one, two = posterior([Belief(2.0, 1.0, 4.0)]), posterior([Belief(2.0, 1.0, 4.0)] * 2)
    assert two.quantile(0.5) == pytest.approx(2.0)
    assert two.quantile(0.9) - two.quantile(0.1) < 0.8 * (one.quantile(0.9) - one.quantile(0.1))


@given(st.integers(-80, 80))
def test_all_moves_with_the_unit_of_the_rate(eighths: int) -> None:
    moved = eighths / FINENESS
    plain = posterior([Belief(0.0, 1.2, 3.0), Belief(2.0, 0.7, 4.0)])
    other = posterior([Belief(moved, 1.2, 3.0), Belief(moved + 2.0, 0.7, 4.0)])
    for share in (0.1, 0.5, 0.9):
        assert other.quantile(share) == pytest.approx(plain.quantile(share) + moved, abs=1e-9)


BELIEFS = [Belief(-1.0, 0.6, 3.0), Belief(1.5, 0.9, 4.0)]


def lost(octaves: float) -> float:
    """Some loss that is not the same on both sides."""
    return 1.0 - math.exp(-(0.05 if octaves < 0.0 else 0.08) * octaves**2)


@pytest.mark.parametrize("octave", [-3.0, -0.5, 0.2, 2.0])
def test_the_expected_loss_is_the_integral_over_the_density(octave: float) -> None:
    places = [-13.0 + k / 500.0 for k in range(13_251)]
    densities = [
        math.prod((1.0 + ((x - b.centre) / b.scale) ** 2 / b.freedom) ** (-0.5 * (b.freedom + 1.0)) for b in BELIEFS)
        for x in places
    ]
    whole = math.fsum(density * lost(octave - x) for x, density in zip(places, densities, strict=True))
    expected = posterior(BELIEFS).expected(octave, lost)
    assert expected == pytest.approx(whole / math.fsum(densities), rel=1e-3)


@pytest.mark.parametrize(("below_best", "above_best"), [(1.0, 1.0), (1.0, 3.0), (4.0, 1.0)])
def test_under_a_loss_of_straight_lines_the_best_choice_is_a_quantile(below_best: float, above_best: float) -> None:
    """E[a (x - b)+ + c (b - x)+] over the best rate b is least where P(b < x) = c / (a + c)."""
    found = posterior(BELIEFS)
    octave, least = found.least_lost(lambda gap: above_best * gap if gap > 0.0 else -below_best * gap)
    assert octave == pytest.approx(found.quantile(below_best / (above_best + below_best)), abs=1.0 / FINENESS)
    assert least == found.expected(octave, lambda gap: above_best * gap if gap > 0.0 else -below_best * gap)


def test_where_both_sides_lose_alike_the_best_choice_is_the_middle() -> None:
    found = posterior([Belief(-7.0, 1.0, 3.0)])
    octave, least = found.least_lost(lambda gap: min(0.04 * gap * gap, 1.0))
    assert octave == -7.0
    assert 0.0 < least < found.expected(-6.0, lambda gap: min(0.04 * gap * gap, 1.0))
