"""The bounds on moments against recursions: attained by the worst gradients, never exceeded by any others."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.theory.moment_bounds import moment_bound, noise_size, step_bound

BETAS = [(0.9, 0.95), (0.9, 0.999), (0.95, 0.9), (0.0, 0.9), (0.9, 0.81), (0.99, 0.5)]


def averages(gradients: numpy.ndarray, beta1: float, beta2: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """m and v after all gradients, [steps, entries]."""
    m, v = numpy.zeros(gradients.shape[1]), numpy.zeros(gradients.shape[1])
    for gradient in gradients:
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    return m, v


@pytest.mark.parametrize(("beta1", "beta2"), BETAS)
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_the_worst_gradients_attain_it(beta1: float, beta2: float, steps: int) -> None:
    worst = numpy.array([[(beta1 / beta2) ** back] for back in reversed(range(steps))])
    m, v = averages(worst, beta1, beta2)
    assert m[0] / math.sqrt(v[0]) == pytest.approx(moment_bound(beta1, beta2, steps), rel=1e-12)
    corrected = (m[0] / (1 - beta1**steps)) / math.sqrt(v[0] / (1 - beta2**steps))
    assert corrected == pytest.approx(step_bound(beta1, beta2, steps), rel=1e-12)


@pytest.mark.parametrize(("betas", "limit"), [((0.9, 0.95), 1.165), ((0.9, 0.999), 7.270)])
def test_limits(betas: tuple[float, float], limit: float) -> None:
    assert moment_bound(*betas, 1e6) == pytest.approx(limit, abs=5e-4)


def test_a_million_random_gradient_sequences_stay_below_it() -> None:
    generator = numpy.random.default_rng(0)
    for beta1, beta2 in BETAS:
        gradients = generator.standard_normal((12, 170_000)) * 10.0 ** generator.uniform(-3, 3, (12, 170_000))
        m, v = averages(gradients, beta1, beta2)
        assert (abs(m) <= moment_bound(beta1, beta2, 12) * numpy.sqrt(v) * (1 + 1e-12)).all()


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.floats(0.0, 0.99),
    st.floats(0.01, 0.9999),
    st.floats(-10.0, 10.0),
    st.floats(0.0, 100.0),
)
@settings(max_examples=300)
def test_what_steps_add_is_bounded_likewise(
    gradients: list[float], beta1: float, beta2: float, first: float, square: float
) -> None:
    m, v = first, square
    for gradient in gradients:
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    steps = len(gradients)
    added, squares = m - beta1**steps * first, v - beta2**steps * square
    slack = 1e-9 * (1.0 + abs(m) + abs(first)) + 1e-7 * moment_bound(beta1, beta2, steps) * math.sqrt(v)
    assert abs(added) <= moment_bound(beta1, beta2, steps) * math.sqrt(max(squares, 0.0)) + slack


def test_edges() -> None:
    assert moment_bound(0.9, 0.999, 0) == 0.0
    assert moment_bound(0.9, 0.0, 1) == moment_bound(0.0, 0.0, 9) == 1.0
    assert moment_bound(0.9, 0.0, 2) == math.inf
    assert moment_bound(0.999, 0.1, 1e6) == math.inf


@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_noise_has_the_size_of_its_law(beta1: float) -> None:
    gradients = numpy.random.default_rng(1).standard_normal((6000, 400))
    m, v = averages(gradients, beta1, 0.999)
    assert math.sqrt(float(numpy.mean(m**2 / v))) == pytest.approx(noise_size(beta1), rel=0.06)
    assert noise_size(0.9) == pytest.approx(0.2294, abs=1e-4)


def test_a_beta1_that_changes_stays_below_the_bound_of_its_range() -> None:
    generator = numpy.random.default_rng(1)
    least, most, beta2 = 0.8, 0.95, 0.99
    for kind in range(3):
        m, v = numpy.zeros(2000), numpy.zeros(2000)
        for step in range(1, 60):
            beta1 = least + (most - least) * (step % 10) / 9.0
            size = 10.0 ** generator.uniform(-3, 3, 2000) if kind else numpy.ones(2000)
            gradient = (generator.standard_normal(2000) if kind == 2 else 1.0) * size
            m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
            assert (abs(m) <= moment_bound(most, beta2, step, least) * numpy.sqrt(v) * (1 + 1e-12)).all()
    assert moment_bound(0.9, 0.999, 7.0, 0.9) == moment_bound(0.9, 0.999, 7.0)
