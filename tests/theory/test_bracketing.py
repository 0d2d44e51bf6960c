import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.theory.bracketing import PRECISION, Bracket, close_in


@settings(deadline=None)
@given(st.floats(1e-6, 1e-1), st.floats(0.5, 2.0), st.floats(0.2, 3.0))
def test_power_laws_are_closed_in_upon(place: float, power: float, off: float) -> None:
    tried = []

    def curve(x: float) -> float:
        tried.append(x)
        return (x / place) ** power

    found = close_in(Bracket(), curve, place * off, evaluations=7, highest=1.0)
    assert found.low < place * (1 + 1e-9) and place <= found.high * (1 + 1e-9)
    assert found.high <= PRECISION * found.low * (1 + 1e-9)
    assert any(x < found.low for x in tried)


def test_a_kink_is_found() -> None:
    def curve(x: float) -> float:
        return 0.1 * x / 0.01 if x < 0.01 else 30 * x

    found = close_in(Bracket(), curve, 0.1, evaluations=8, highest=1.0)
    assert found.low < 1 / 30 <= found.high and found.closed


def test_a_jump_is_halved_towards() -> None:
    found = close_in(Bracket(), lambda x: math.inf if x > 0.02 else 0.01, 0.5, evaluations=12, highest=1.0)
    assert found.low <= 0.02 < found.high
    assert found.closed


def test_a_curve_that_never_arrives_is_followed_to_the_end() -> None:
    found = close_in(Bracket(), lambda x: 0.1 * x, 0.01, evaluations=6, highest=1.0)
    assert (found.low, found.high) == (1.0, math.inf)


def test_a_curve_above_everywhere_has_no_lower_end() -> None:
    found = close_in(Bracket(), lambda x: 3.0, 0.01, evaluations=6, highest=1.0)
    assert found.low == 0.0 and found.high < 0.01


def test_a_curve_that_went_above_and_came_back_is_followed_down() -> None:
    def curve(x: float) -> float:
        return 2.0 if 0.004 < x < 0.006 else 100 * x

    found = close_in(Bracket(), curve, 0.01, evaluations=12, highest=1.0)
    assert found.high < 0.006


def test_what_is_no_number_counts_as_above() -> None:
    bracket = Bracket()
    bracket.add(0.1, math.nan)
    assert bracket.high == 0.1
    assert bracket.proposal() == pytest.approx(0.1 / 16)
