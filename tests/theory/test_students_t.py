"""Student's t against tabulated quantiles and against its own law."""

import math

import numpy
import pytest

from fromage_cli.theory.students_t import sure


@pytest.mark.parametrize(
    ("values", "quantile"),
    [(2, 12.7062), (3, 4.30265), (4, 3.18245), (5, 2.77645), (8, 2.36462), (11, 2.22814), (31, 2.04227)],
)
def test_tabulated_quantiles(values: int, quantile: float) -> None:
    assert sure(values) == pytest.approx(quantile, rel=3e-3)


def test_one_value_tells_nothing_and_many_are_normal() -> None:
    assert sure(1) == sure(0) == math.inf
    assert sure(10**6) == pytest.approx(1.96, abs=1e-4)


def test_it_is_passed_by_chance_in_one_of_twenty() -> None:
    draws = numpy.random.default_rng(0).standard_normal((200_000, 4))
    ratio = abs(draws.mean(1)) / (draws.std(1, ddof=1) / 2.0)
    assert (ratio > sure(4)).mean() == pytest.approx(0.05, abs=0.002)
