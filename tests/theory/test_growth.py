import math
import random
from itertools import pairwise
from statistics import mean, stdev
from typing import Literal

import numpy as np
import pytest

from fromage_cli.theory.equilibrium import momentum_gains
from fromage_cli.theory.growth import (
    NO_NEWS,
    drift,
    first_passage,
    is_drift,
    mean_over,
    orthogonal_growth,
    out_of_line,
    random_walk_error,
    step_without_memory,
    steps_until,
    theil_sen,
)


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


def positions_of(count, spacing, draw):
    """Even, or with gaps of 1 to 16 steps."""
    places = [0.0]
    while len(places) < count:
        places.append(places[-1] + (1 if spacing == "even" else 2 ** draw.randint(0, 4)))
    return places


def walk(places, draw):
    values = [0.0]
    for here, there in pairwise(places):
        values.append(values[-1] + draw.gauss(0, math.sqrt(there - here)))
    return values


def test_the_error_of_a_walk_is_that_of_its_mean_increment():
    steps, values = [0, 10, 20, 30, 40], [0.0, 1.0, 1.5, 4.0, 4.5]
    assert random_walk_error(steps, values) == pytest.approx(stdev([1.0, 0.5, 2.5, 0.5]) / math.sqrt(4) / 10)
    gaps, increments, drift_of = [1, 4], [2.0, 3.0], 1.0
    expected = math.sqrt(sum((d - drift_of * h) ** 2 / h for h, d in zip(gaps, increments, strict=True)) / 1 / 5)
    assert random_walk_error([0, 1, 5], [0.0, 2.0, 5.0]) == pytest.approx(expected)


@pytest.mark.parametrize("spacing", ["even", "uneven"])
@pytest.mark.parametrize(
    ("count", "draws"), [(3, 4000), (4, 4000), (5, 3000), (6, 3000), (7, 2000), (10, 1000), (20, 400)]
)
def test_walks_without_drift_are_rarely_taken_for_growth(count, draws, spacing):
    draw, alarms, naive = random.Random(1), 0, 0
    for _ in range(draws):
        places = positions_of(count, spacing, draw)
        values = walk(places, draw)
        slope, error = drift(places, values)
        alarms += is_drift(slope, error, count)
        naive += slope > 2 * (theil_sen(places, values)[1] or 0.0)
    assert 0.02 < alarms / draws < 0.08
    assert naive / draws > 0.11


@pytest.mark.parametrize("count", [3, 5, 10, 30])
def test_nor_is_independent_noise(count):
    draw = random.Random(2)
    found = [drift(range(count), [draw.gauss(0, 1) for _ in range(count)]) for _ in range(400)]
    assert sum(is_drift(slope, error, count) for slope, error in found) / 400 < 0.06


def test_a_walk_with_enough_drift_is_found():
    draw, places = random.Random(3), list(range(0, 100, 10))
    found = [drift(places, [0.5 * x + y for x, y in zip(places, walk(places, draw), strict=True)]) for _ in range(200)]
    assert mean(slope for slope, _ in found) == pytest.approx(0.5, abs=0.03)
    assert sum(is_drift(slope, error, 10) for slope, error in found) > 190
    assert is_drift(1.0, None, 2) and not is_drift(0.0, None, 2)


def test_the_law_is_that_of_an_orthogonal_step():
    assert orthogonal_growth(0.02) == pytest.approx(math.log(math.hypot(1, 0.02)), rel=1e-12)
    assert math.exp(19404 * orthogonal_growth(0.01)) == pytest.approx(2.638, rel=1e-3)  # Fig. 2


def test_steps_until_a_limit():
    assert steps_until(1.0, math.e, 0.01) == pytest.approx(100)
    assert steps_until(3.0, 2.0, 0.01) == 0.0
    assert steps_until(1.0, 2.0, 0.0) is None
    assert steps_until(1.0, 2.0, -0.1) is None
    assert steps_until(0.0, 2.0, 0.1) is None


def grown(optimizer: str, rate: float, memory: float, dampening: float = 0.0, nesterov: bool = False) -> float:
    """Growth of ln ‖W‖ a step, simulated with gradients that are noise orthogonal to W."""
    draw, steps, size = np.random.default_rng(0), 4000, 400
    weights, buffer = draw.normal(size=size), np.zeros(size)
    norms = [np.linalg.norm(weights)]
    for _ in range(steps):
        gradient = draw.normal(size=size)
        gradient -= gradient @ weights / (weights @ weights) * weights
        if optimizer == "lars":
            scaled = norms[-1] / np.linalg.norm(gradient) * gradient
            buffer = memory * buffer + (1 - dampening) * scaled
            weights = weights - rate * (scaled + memory * buffer if nesterov else buffer)
        else:
            buffer = memory * buffer + (1 - memory) * gradient / norms[-1]  # a scale-invariant gradient shrinks so
            weights = weights - rate * norms[-1] / np.linalg.norm(buffer) * buffer
        norms.append(np.linalg.norm(weights))
    warm = steps // 10
    return float(np.log(norms[-1] / norms[warm]) / (steps - warm))


@pytest.mark.parametrize(
    ("optimizer", "averages", "memory"),
    [("lars", "momentum", 0.0), ("lars", "momentum", 0.9), ("lamb", "betas", 0.0), ("lamb", "betas", 0.9)],
)
def test_the_law_with_memory_is_that_of_simulated_noise(
    optimizer: str, averages: Literal["momentum", "betas"], memory: float
) -> None:
    rate = 0.002 if memory else 0.01
    step = step_without_memory(averages, rate, total=momentum_gains(memory).total, first_beta=memory)
    assert grown(optimizer, rate, memory) == pytest.approx(orthogonal_growth(step), rel=0.1 if memory else 1e-4)


@pytest.mark.parametrize(("dampening", "nesterov", "total"), [(0.5, False, 5.0), (0.5, True, 5.5), (0.0, True, 10.0)])
def test_dampening_and_nesterov_change_the_law_of_lars(dampening: float, nesterov: bool, total: float) -> None:
    assert momentum_gains(0.9, dampening, nesterov).total == pytest.approx(total)
    step = step_without_memory("momentum", 0.002, total)
    assert grown("lars", 0.002, 0.9, dampening, nesterov) == pytest.approx(orthogonal_growth(step), rel=0.1)


def test_the_mean_of_a_curve() -> None:
    assert mean_over([0, 10, 40], [1.0, 3.0, 5.0]) == 3.5
    assert mean_over([None], [2.0]) == 2.0
    assert mean_over([0, None], [1.0, 2.0]) == 1.5


def test_what_averages_nothing_does_not_walk() -> None:
    assert step_without_memory(None, 0.1) == 0.0


def test_the_first_passage() -> None:
    assert first_passage([0, 10, 20], [1.0, 2.0, 4.0], 3.0) == 15.0
    assert first_passage([5, 6], [2.0, 3.0], 2.0) == 5
    assert first_passage([0, 10, 20], [1.0, 0.5, 1.5], 2.0) is None
    assert first_passage([0], [1.0], 2.0) is None


def test_what_is_out_of_line():
    steps, values = (0, 10, 20, 30, 50), (0.0, 1.0, 1.1, 2.2, 2.4)  # 0.1, 0.01, 0.11, 0.01 a step
    place, excess, deviations = out_of_line(steps, values)
    assert (place, excess) == (2, pytest.approx(1.0)) and deviations == pytest.approx(1.0 / NO_NEWS)
    place, excess, deviations = out_of_line((0, 10, 20), (0.0, 1.0, 1.1), [(0.0, 1.0, 1.1), (0.0, 1.0, 1.1)])
    assert (place, excess) == (1, pytest.approx((0.01 - 0.1) * 10))  # 0.1, 0.1, 0.01, 0.1, 0.01 have the median 0.1
    assert deviations == pytest.approx(0.9 / NO_NEWS)
    assert out_of_line((0, 10, 20), (0.0, 1.0, 1.1)) is None  # one other interval
    assert out_of_line((0, 90, 100), (0.0, 1.0, 1.1), [(0.0, 2.0, 2.1)])[0] == 1  # the first quarter is not told
