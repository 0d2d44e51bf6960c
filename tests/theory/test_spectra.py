import math

import numpy
import pytest

from fromage_cli.theory.spectra import DENSE, ITERATIONS, decomposition_work, extremes, leading_singular_value


def with_values(values, shape, seed=0):
    generator = numpy.random.default_rng(seed)
    left, _ = numpy.linalg.qr(generator.standard_normal((shape[0], len(values))))
    right, _ = numpy.linalg.qr(generator.standard_normal((shape[1], len(values))))
    return left * numpy.asarray(values) @ right.T


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (5, 5)])
def test_small_matrices_have_both(shape):
    largest, condition = extremes(with_values([3.0, 2.0, 1.0, 0.5, 1e-6], shape))
    assert largest == pytest.approx(3.0, rel=1e-12)
    assert condition == pytest.approx(3e6, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "work"),
    [
        ((4, 3, 2), 24 * 4),
        ((9, 5), 45 * 5),
        ((0, 3), 0),
        ((DENSE + 1, DENSE + 2), (DENSE + 1) * (DENSE + 2) * 2 * ITERATIONS),
    ],
)
def test_work_grows_with_the_shorter_side_of_what_is_decomposed(shape, work):
    assert decomposition_work(shape) == work


def test_rank_deficient_zero_and_extreme_entries():
    assert extremes(with_values([3.0, 2.0], (4, 4)))[1] == math.inf
    assert extremes(numpy.zeros((3, 3))) == (0.0, math.inf)
    assert extremes(numpy.zeros((0, 3))) == (0.0, None)
    assert extremes(numpy.eye(3) * 1e-30) == (pytest.approx(1e-30), pytest.approx(1.0))
    assert extremes(numpy.eye(3) * 1e300) == (pytest.approx(1e300), pytest.approx(1.0))


@pytest.mark.parametrize("shape", [(40, 300), (300, 40)])
def test_the_iteration_finds_the_largest_of_close_ones(shape):
    values = numpy.linspace(1.0, 0.9, 30)
    found = leading_singular_value(with_values(values, shape))
    assert 1.0 - 1e-4 < found <= 1.0 + 1e-12


def test_large_matrices_have_a_spectral_norm_alone():
    matrix = numpy.random.default_rng(0).standard_normal((1030, 1040))
    largest, condition = extremes(matrix)
    assert condition is None
    exact = float(numpy.sqrt(numpy.linalg.eigvalsh(matrix @ matrix.T)[-1]))
    assert exact * (1 - 1e-4) < largest <= exact * (1 + 1e-12)
    narrow, _ = extremes(matrix.astype(numpy.float32))
    assert exact * (1 - 1e-4) < narrow <= exact * (1 + 1e-5)
