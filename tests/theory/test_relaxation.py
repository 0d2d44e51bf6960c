"""Ways and courses in closed form; they are simulated beside the equilibria that they lead to."""

import math

import pytest

from fromage_cli.theory.equilibrium import (
    Gains,
    adamw_equilibrium,
    lars_equilibrium,
    momentum_gains,
    relative_rotation,
    sgd_equilibrium,
)
from fromage_cli.theory.relaxation import AfterDrop, after_drop, relaxed, times_until_near

PLAIN = Gains()


def test_the_drop_as_li_lyu_and_arora_write_it() -> None:
    rate, decay = 0.1, 1e-3
    course = after_drop(sgd_equilibrium(rate, decay, PLAIN), 10.0)
    assert course is not None
    for step in (0, 100, 10_000, 1_000_000):
        left = math.exp(-4 * (rate * decay / 10) * step)
        assert course.at(step) == pytest.approx(0.1 / math.sqrt(left + 0.1 * (1 - left)))
    assert course.final == pytest.approx(1 / math.sqrt(10))
    assert course.at(course.recovery()) == pytest.approx(0.9 * course.final)


def test_relative_rates_do_not_come_back() -> None:
    course = after_drop(lars_equilibrium(0.01, PLAIN), 10.0)
    assert isinstance(course, AfterDrop) and course.at(0) == course.at(1e6) == course.final == pytest.approx(0.1)
    assert course.recovery() == 0.0
    assert after_drop(relative_rotation(0.01, PLAIN), 10.0) is None


@pytest.mark.parametrize("factor", [3.0, 10.0])
def test_recovery_from_equilibrium_in_closed_form(factor: float) -> None:
    """e^(−t/τ) where η_e = (1/f) / √(e + (1 − e)/f) is nine tenths of 1/√f, for SGD and AdamW alike."""
    end = factor**-0.5
    left = ((1.0 / factor / (0.9 * end)) ** 2 - 1.0 / factor) / (1.0 - 1.0 / factor)
    for found in (sgd_equilibrium(0.1, 1e-3, momentum_gains(0.9)), adamw_equilibrium(1e-3, 0.1, (0.9, 0.99))):
        course = after_drop(found, factor)
        assert course is not None and found.relaxation is not None
        assert course.recovery() == pytest.approx(-factor * found.relaxation * math.log(left), rel=1e-12)


def test_recovery_from_elsewhere_against_the_course_bisected() -> None:
    """From 1.4 × below the new end the rate falls to it; from 4 × above it climbs."""
    for ratio in (0.4, 4.0):
        course = after_drop(sgd_equilibrium(0.1, 1e-3, PLAIN), 10.0, ratio)
        assert course is not None
        low, high = 0.0, 100.0 * course.relaxation
        for _ in range(100):
            middle = (low + high) / 2.0
            far = abs(course.at(middle) / course.final - 1.0) > 0.1
            low, high = (middle, high) if far else (low, middle)
        assert course.recovery() == pytest.approx(high, rel=1e-9)
    near = after_drop(sgd_equilibrium(0.1, 1e-3, PLAIN), 10.0, 10.0**-0.25)
    assert near is not None and near.recovery() == 0.0


@pytest.mark.parametrize("ratio", [1.0, 1.09, 0.91])
def test_who_is_there_has_no_way_left(ratio: float) -> None:
    assert times_until_near(ratio, 4) == 0.0
    assert relaxed(ratio, 0.0, 4) == pytest.approx(ratio) and relaxed(ratio, 50.0, -2) == pytest.approx(1.0)
