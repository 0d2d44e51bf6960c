import math
import random
from statistics import mean, stdev

import pytest

from fromage_cli.theory.growth import orthogonal_growth, steps_until, theil_sen


def test_a_line_has_its_slope_and_no_error():
    assert theil_sen([0, 1, 5, 9], [2, 5, 17, 29]) == (3.0, 0.0)
    assert theil_sen([10, 30], [1.0, 2.0]) == (0.05, None)


def test_one_outlier_does_not_move_the_slope():
    values = [float(step) for step in range(10)]
    values[4] = 1000.0
    assert theil_sen(range(10), values)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("count", [5, 10, 30])
def test_the_error_is_that_of_repeated_draws(count):
    draw = random.Random(0)
    found = [theil_sen(range(count), [0.3 * x + draw.gauss(0, 1) for x in range(count)]) for _ in range(400)]
    slopes, errors = [slope for slope, _ in found], [error or 0.0 for _, error in found]
    assert mean(slopes) == pytest.approx(0.3, abs=4 * stdev(slopes) / 20)
    assert mean(errors) == pytest.approx(stdev(slopes), rel=0.25)


def test_the_law_is_that_of_an_orthogonal_step():
    assert orthogonal_growth(0.02) == pytest.approx(math.log(math.hypot(1, 0.02)), rel=1e-12)
    assert math.exp(19404 * orthogonal_growth(0.01)) == pytest.approx(2.638, rel=1e-3)  # Fig. 2


def test_steps_until_a_limit():
    assert steps_until(1.0, math.e, 0.01) == pytest.approx(100)
    assert steps_until(3.0, 2.0, 0.01) == 0.0
    assert steps_until(1.0, 2.0, 0.0) is None
    assert steps_until(1.0, 2.0, -0.1) is None
    assert steps_until(0.0, 2.0, 0.1) is None
