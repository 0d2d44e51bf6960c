import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.rate_calibration import (
    INITIAL_EXPONENT,
    MOMENTUM,
    SGD,
    SOFTNESS,
    TRAINED_EXPONENT,
    Calibration,
    Valley,
    momentum_calibration,
    valley_of_least,
)

RATES = [2.0 ** (2 * k) for k in range(-4, 5)]


def test_the_rate_is_a_power_of_the_centre() -> None:
    constants = Calibration(typical=0.1, offset=-1.0, trained_offset=-3.0)
    assert constants.from_initialisation(4.0) == pytest.approx(2.0**-1 * 4.0**INITIAL_EXPONENT)
    assert constants.from_checkpoint(16.0) == pytest.approx(2.0**-3 * 16.0**TRAINED_EXPONENT)


@pytest.mark.parametrize(("momentum", "known"), [(0.0, SGD), (0.9, MOMENTUM)])
def test_sgd_has_those_of_its_momentum(momentum: float, known: Calibration) -> None:
    found = momentum_calibration(momentum)
    assert found.__dict__ == pytest.approx(known.__dict__)


def test_momentum_between_two_lies_between_them() -> None:
    found = momentum_calibration(1.0 - 10.0**-0.5)  # half of the way in log(1 - momentum)
    assert found.typical == pytest.approx(math.sqrt(SGD.typical * MOMENTUM.typical))
    assert found.offset == pytest.approx((SGD.offset + MOMENTUM.offset) / 2)


@given(st.integers(2, 6), st.floats(0.05, 1.0))
def test_the_centre_of_a_symmetric_well_is_its_middle(place: int, curvature: float) -> None:
    losses = [math.exp(curvature * (k - place) ** 2) for k in range(9)]
    inside = [*range(max(0, 2 * place - 8), min(8, 2 * place) + 1)]
    centre = valley_of_least([RATES[k] for k in inside], [losses[k] for k in inside]).centre
    assert centre == pytest.approx(RATES[place], rel=1e-9)


def test_the_centre_of_two_equal_rates_lies_between_them() -> None:
    assert valley_of_least([1.0, 4.0], [0.3, 0.3]).centre == pytest.approx(2.0)


def test_the_centre_between_two_rates_is_the_mean_under_an_exponential() -> None:
    """Between two rates the weight is exp(-h x / SOFTNESS), whose mean has a closed form."""
    height = 0.5
    steepness = height / SOFTNESS
    mean = 1.0 / steepness - 1.0 / math.expm1(steepness)
    centre = valley_of_least([1.0, math.e], [1.0, math.exp(height)]).centre
    assert math.log(centre) == pytest.approx(mean, rel=2e-3)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_the_centre_moves_with_the_unit_of_the_rate_and_not_with_that_of_the_loss(rate: float, loss: float) -> None:
    losses = [3.0, 1.0, 1.2, math.inf]
    plain = valley_of_least([1.0, 4.0, 16.0, 64.0], losses)
    faster = valley_of_least([rate * 4.0**k for k in range(4)], losses)
    assert faster.centre == pytest.approx(rate * plain.centre)
    assert faster.spread == pytest.approx(plain.spread)
    other = valley_of_least([1.0, 4.0, 16.0, 64.0], [loss * each for each in losses])
    assert (other.centre, other.spread) == pytest.approx((plain.centre, plain.spread))


def test_a_run_that_left_the_numbers_counts_as_a_very_bad_one() -> None:
    ends = [valley_of_least([1.0, 4.0, 16.0], [1.0, 1.0, end]).centre for end in (math.inf, 1e9, math.exp(2.0))]
    assert ends == pytest.approx([ends[0]] * 3)


def test_a_single_rate_is_its_own_centre() -> None:
    assert valley_of_least([0.25], [1.0]) == Valley(0.25, 0.0)


@given(st.integers(2, 6))
def test_rates_that_cannot_be_told_apart_spread_like_a_uniform_density(count: int) -> None:
    width = 2.0 * (count - 1)  # octaves; standard deviation of a uniform density: width / sqrt(12)
    spread = valley_of_least([4.0**k for k in range(count)], [0.7] * count).spread
    assert spread == pytest.approx(width / math.sqrt(12.0), rel=1e-3)


def test_the_spread_of_a_kink_is_that_of_a_two_sided_exponential() -> None:
    """ln loss = s |ln rate|, so the weight is exp(-s |ln rate| / SOFTNESS), of deviation sqrt(2) SOFTNESS / s."""
    steepness, fine = 0.5, [math.exp(0.05 * k) for k in range(-80, 81)]
    spread = valley_of_least(fine, [math.exp(steepness * abs(math.log(rate))) for rate in fine]).spread
    assert spread * math.log(2.0) == pytest.approx(math.sqrt(2.0) * SOFTNESS / steepness, rel=1e-2)
