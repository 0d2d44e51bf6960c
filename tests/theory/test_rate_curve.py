"""The curve of losses over rates and its valley, against parabolas, kinks and flat stretches in closed form."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.rate_curve import (
    CAP,
    SOFTNESS,
    RateCurve,
    ShortRun,
    best_rate,
    centre_of,
    curve_of,
    noise_of,
)

WIDE = [-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0]
CLOSE = [-1.25, -0.25, 0.75, 1.75]


def runs(octaves: Sequence[float], loss: Callable[[float], float], steps: int = 12, seed: int = 0) -> list[ShortRun]:
    return [ShortRun(2.0**octave, steps, seed, loss(octave)) for octave in octaves]


def bowl(octave: float) -> float:
    """From 3 before the runs to 1 at the rate 1."""
    return 1.0 + 0.1 * octave * octave


def test_what_is_lost_is_counted_in_parts_of_the_best_fall() -> None:
    curve = curve_of(runs(WIDE, bowl), [3.0])
    assert curve is not None and curve.octaves == tuple(WIDE)
    assert curve.lost == pytest.approx([min(0.05 * octave**2, CAP) for octave in WIDE])


@given(st.floats(0.01, 100.0), st.floats(-5.0, 5.0))
def test_the_unit_and_the_zero_of_the_loss_do_not_matter(unit: float, zero: float) -> None:
    plain = curve_of(runs(WIDE, bowl), [3.0])
    other = curve_of(runs(WIDE, lambda octave: zero + unit * bowl(octave)), [zero + unit * 3.0])
    assert plain is not None and other is not None
    assert other.lost == pytest.approx(plain.lost, abs=1e-9)


def test_a_run_that_left_the_numbers_has_lost_all_there_is() -> None:
    curve = curve_of(runs(WIDE, lambda octave: bowl(octave) if octave < 3.0 else math.inf), [3.0])
    assert curve is not None and curve.lost[-2:] == (CAP, CAP)


def test_no_curve_where_no_run_lowers_the_loss() -> None:
    assert curve_of([], []) is curve_of(runs(WIDE, bowl), [1.0]) is curve_of(runs([0.0], bowl), [3.0]) is None
    assert curve_of(runs(WIDE, lambda _: math.inf), [3.0]) is None
    assert best_rate(runs(WIDE, bowl), [0.5]) is None


def test_between_and_beyond_rates_it_goes_by_straight_lines() -> None:
    curve = RateCurve((0.0, 2.0, 3.0), (0.5, 0.1, 0.3))
    places = [(1.0, 0.3), (2.5, 0.2), (4.0, 0.5), (-1.0, 0.7), (-9.0, CAP), (20.0, CAP)]
    assert [curve.at(octave) for octave, _ in places] == pytest.approx([lost for _, lost in places])
    assert RateCurve((0.0, 1.0), (0.5, 0.2)).at(5.0) == 0.0


def test_the_mean_is_taken_over_seeds() -> None:
    first, second = runs(WIDE, bowl), runs(WIDE, lambda octave: 2.0 * bowl(octave), seed=1)
    both = curve_of(first + second, [3.0, 6.0])
    assert both is not None
    assert both.lost == pytest.approx([min(0.05 * octave**2, CAP) for octave in WIDE])


@given(st.floats(-0.5, 0.5))
def test_seeds_that_tried_other_rates_are_moved_to_meet_at_common_ones(apart: float) -> None:
    """The second seed falls by so much less; the mean of both at common rates is the level of all."""
    first = runs(WIDE[:5], bowl)
    second = runs(WIDE[2:], lambda octave: bowl(octave) + apart, seed=1)
    curve = curve_of(first + second, [3.0, 3.0])
    assert curve is not None and curve.octaves == tuple(WIDE)
    best = 2.0 - apart / 2.0
    assert curve.lost == pytest.approx([min(0.1 * octave**2 / best, CAP) for octave in WIDE])


def test_of_seeds_that_differ_from_rate_to_rate_the_mean_difference_is_taken_off() -> None:
    """Falls of 1, 2, 3 and of 2, 5 at the last two and 4 at one more: the levels at the common ones are 2.5 and 3.5."""
    first = [ShortRun(2.0**octave, 12, 0, -fall) for octave, fall in ((0.0, 1.0), (1.0, 2.0), (2.0, 3.0))]
    second = [ShortRun(2.0**octave, 12, 1, -fall) for octave, fall in ((1.0, 2.0), (2.0, 5.0), (3.0, 4.0))]
    curve = curve_of(first + second, [0.0, 0.0])
    assert curve is not None
    falls = [1.0 + 0.5, 2.0, 4.0, 4.0 - 0.5]
    assert curve.lost == pytest.approx([1.0 - fall / 4.0 for fall in falls])


def test_a_seed_that_left_the_numbers_at_a_rate_takes_all_of_it_and_none_of_the_others() -> None:
    first, second = runs(WIDE, bowl), runs(WIDE, lambda octave: bowl(octave) if octave < 5.0 else math.inf, seed=1)
    curve = curve_of(first + second, [3.0, 3.0])
    assert curve is not None
    assert curve.lost == pytest.approx([min(0.05 * octave**2, CAP) for octave in WIDE[:-1]] + [CAP])


def test_seeds_without_a_common_rate_are_taken_as_they_are() -> None:
    """Falls of -1.6, 1.6, 1.6, -1.6 at every other rate, and of 0, 1.6, 0 between them."""
    between = runs(WIDE[1::2], lambda octave: bowl(octave) + 0.4, seed=1)
    curve = curve_of(runs(WIDE[::2], bowl) + between, [3.0, 3.0])
    assert curve is not None
    assert curve.lost == pytest.approx([CAP, 1.0, 0.0, 0.0, 0.0, 1.0, CAP])


def test_longer_runs_are_continued_by_shorter_ones_that_are_moved_to_meet_them() -> None:
    """Of the short ones .04 x^2 is lost, of the long ones .01 (x^2 - 1/16), which is least at -.25."""
    short = runs(WIDE, lambda octave: 0.04 * octave**2)
    long = runs(CLOSE, lambda octave: 0.01 * (octave**2 - 0.0625), steps=24)
    curve = curve_of(short + long, [1.0])
    assert curve is not None and curve.octaves == pytest.approx([-6.0, -4.0, -2.0, *CLOSE, 4.0, 6.0])
    below, above = 0.015 - 0.1, 0.03 - 0.14  # at -1.25 and 1.75, where the short ones' lines lie at .1 and .14
    inside = [0.01 * (octave**2 - 0.0625) for octave in CLOSE]
    outside = [1.44 + below, 0.64 + below, 0.16 + below], [0.64 + above, 1.44 + above]
    assert curve.lost == pytest.approx([*outside[0], *inside, *outside[1]])


def test_longer_runs_that_lower_nothing_are_left_out() -> None:
    short, long = runs(WIDE, bowl), runs(CLOSE, lambda _: 5.0, steps=24)
    assert curve_of(short + long, [3.0]) == curve_of(short, [3.0])


def sampled(lost: Callable[[float], float], apart: float = 0.125, reach: int = 48) -> RateCurve:
    octaves = [apart * k for k in range(-reach, reach + 1)]
    return RateCurve(tuple(octaves), tuple(min(lost(octave), CAP) for octave in octaves))


@pytest.mark.parametrize("centre", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize("bend", [0.05, 0.2])
def test_a_parabola_is_least_around_its_vertex(centre: float, bend: float) -> None:
    """exp(-bend (x - centre)^2 / SOFTNESS) is a normal density with that mean."""
    assert centre_of(sampled(lambda octave: bend * (octave - centre) ** 2)) == pytest.approx(centre, abs=2e-3)


def test_two_slopes_weigh_as_their_exponentials_do() -> None:
    """Weights e^(-a |x|) below 0 and e^(-b x) above have the mean (1 / b^2 - 1 / a^2) / (1 / a + 1 / b)."""
    found = centre_of(sampled(lambda octave: 0.2 * octave if octave > 0.0 else -0.1 * octave))
    left, right = 0.1 / SOFTNESS, 0.2 / SOFTNESS
    assert found == pytest.approx((1 / right**2 - 1 / left**2) / (1 / left + 1 / right), rel=0.01)


@given(st.integers(1, 8), st.floats(-3.0, 3.0))
def test_a_flat_curve_is_least_in_its_middle(width: int, start: float) -> None:
    assert centre_of(RateCurve((start, start + width), (0.0, 0.0))) == pytest.approx(start + width / 2.0)


def test_along_a_slope_the_mean_is_that_of_an_exponential() -> None:
    """Over (0, w) the density exp(-s x / SOFTNESS) has the mean 1 / r - w / (e^(r w) - 1), r = s / SOFTNESS."""
    ratio = 0.05 / SOFTNESS
    expected = 1.0 / ratio - 2.0 / math.expm1(2.0 * ratio)
    assert centre_of(RateCurve((0.0, 2.0), (0.0, 0.1))) == pytest.approx(expected, rel=1e-3)


@given(st.integers(-20, 20))
def test_the_best_rate_follows_the_unit_of_the_rate(moved: int) -> None:
    plain = best_rate(runs(WIDE, lambda octave: bowl(octave - 0.7)), [3.0])
    other = best_rate(runs([octave + moved for octave in WIDE], lambda octave: bowl(octave - moved - 0.7)), [3.0])
    assert plain is not None and other == pytest.approx(plain * 2.0**moved)
    assert math.log2(plain) == pytest.approx(0.7, abs=0.3)


@given(st.floats(0.0, 0.5), st.floats(-0.5, 0.5), st.floats(0.01, 100.0))
def test_noise_is_what_two_seeds_differ_by_from_rate_to_rate(gap: float, apart: float, unit: float) -> None:
    """Gaps of 2 g and -2 g, twice each, deviate by 4 g / 3^(1/2), the mean of the seeds by half of that."""
    octaves = [0.0, 1.0, 2.0, 3.0]
    first = runs(octaves, lambda octave: unit * (1.0 + gap * (-1.0) ** octave))
    second = runs(octaves, lambda octave: unit * (1.0 + apart - gap * (-1.0) ** octave), seed=1)
    fall = 2.0 - apart / 2.0  # the mean of both, at every rate
    expected = 2.0 * gap / math.sqrt(3.0) / fall
    assert noise_of(first + second, [3.0 * unit, 3.0 * unit]) == pytest.approx(expected, abs=1e-9)


def test_noise_is_that_of_the_longest_runs_where_both_stayed_finite() -> None:
    short = [*runs(WIDE, bowl), *runs(WIDE, lambda octave: bowl(octave) + octave, seed=1)]
    long = [*runs(CLOSE, bowl, 24), *runs(CLOSE, bowl, 24, seed=1)]
    assert (noise_of(short, [3.0, 3.0]) or 0.0) > 0.5 and noise_of(short + long, [3.0, 3.0]) == 0.0
    left = [ShortRun(64.0, 24, 0, 1.0), ShortRun(64.0, 24, 1, math.inf), ShortRun(128.0, 24, 0, 0.0)]
    assert noise_of(short + long + left, [3.0, 3.0]) == 0.0


def test_noise_is_not_known_of_one_seed_and_without_end_where_nothing_falls() -> None:
    assert noise_of([], []) is noise_of(runs(WIDE, bowl), [3.0]) is None
    assert noise_of(runs(WIDE, bowl) + runs(WIDE[:1], bowl, seed=1), [3.0, 3.0]) is None
    assert noise_of(runs(WIDE, bowl) + runs(WIDE, bowl, seed=1), [1.0, 1.0]) == math.inf
