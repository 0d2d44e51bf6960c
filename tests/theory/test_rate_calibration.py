"""From runs and what is usual to a rate: what must hold whatever the constants of the study are."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromage_cli.theory.rate_calibration import (
    ADAMW,
    BEYOND_SCALE,
    INTERVAL,
    LEAST_GAIN,
    LOST_ABOVE,
    LOST_BELOW,
    MOMENTUM,
    NOISE_SCALE,
    PARTS_BIAS,
    PARTS_SCALE,
    RELIABLE,
    RUNS_FREEDOM,
    SGD,
    STUDIED_STEPS,
    TRAINED,
    TRAINED_BIAS,
    TRAINED_SCALE,
    TRAINED_STEEPNESS,
    UNKNOWN_NOISE,
    USUAL_FREEDOM,
    USUAL_SCALE,
    Calibration,
    Conclusion,
    WholeRun,
    belief_of,
    conclude,
    lost,
    momentum_calibration,
)
from fromage_cli.theory.rate_curve import ShortRun, curve_of
from fromage_cli.theory.rate_posterior import Belief, posterior

WIDE = [-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0]
STEPS = 12
DOUBLINGS = math.log2(STUDIED_STEPS / STEPS)
"""From the short runs to a whole one whose steps are not told."""
KNOWN = Calibration(typical=0.5, drift=1.0 / DOUBLINGS, scale=0.5)
"""Of an optimizer whose usual rate is what runs with the least loss at the rate 1 say."""


def runs(loss: Callable[[float], float], seed: int = 0, moved: float = 0.0) -> list[ShortRun]:
    return [ShortRun(2.0 ** (octave + moved), STEPS, seed, loss(octave)) for octave in WIDE]


def sharp(octave: float) -> float:
    """All of the loss is taken away at the rate 1, a quarter of it kept at half and at twice that."""
    return min(0.25 * octave * octave, 3.0)


def apart(gap: float) -> list[ShortRun]:
    """Two seeds whose mean is sharp: at four of the rates their losses are twice the gap apart."""
    return [
        *runs(lambda octave: sharp(octave) + (gap if octave % 4.0 else 0.0)),
        *runs(lambda octave: sharp(octave) - (gap if octave % 4.0 else 0.0), 1),
    ]


AGREED = apart(0.0)


def concluded(
    found: list[ShortRun], *, calibration: Calibration | None = None, **whole: float | bool | None
) -> Conclusion:
    return conclude(found, [1.0, 1.0], calibration, WholeRun(**whole))


def octaves(found: Conclusion) -> float:
    """How wide the interval is."""
    assert found.low is not None and found.high is not None
    return math.log2(found.high / found.low)


@pytest.mark.parametrize(("momentum", "known"), [(0.0, SGD), (0.9, MOMENTUM)])
def test_sgd_has_those_of_its_momentum(momentum: float, known: Calibration) -> None:
    assert momentum_calibration(momentum).__dict__ == pytest.approx(known.__dict__)


def test_an_optimizer_that_was_not_studied_is_never_reliable() -> None:
    both = apart(0.0)
    assert concluded(both, calibration=KNOWN).reliable
    assert not concluded(both, calibration=replace(KNOWN, studied=False)).reliable
    assert [momentum_calibration(momentum).studied for momentum in (0.0, 0.5, 0.9, 0.95)] == [False, False, True, True]


def test_momentum_between_two_lies_between_them() -> None:
    found = momentum_calibration(1.0 - 10.0**-0.5)  # half of the way in log(1 - momentum)
    assert found.typical == pytest.approx(math.sqrt(SGD.typical * MOMENTUM.typical))


def test_what_is_lost_begins_with_a_parabola_and_never_passes_all() -> None:
    assert lost(0.0) == 0.0
    assert lost(-1.0) == pytest.approx(LOST_BELOW / (1.0 + LOST_BELOW))
    assert lost(1.0) == pytest.approx(LOST_ABOVE / (1.0 + LOST_ABOVE))
    assert lost(1e-3) == pytest.approx(LOST_ABOVE * 1e-6, rel=1e-4)
    for side in (-1.0, 1.0):
        sizes = [lost(side * octaves) for octaves in (0.0, 0.5, 1.0, 3.0, 9.0, 1e4)]
        assert sizes == sorted(sizes) and 0.999 < sizes[-1] <= 1.0


def test_without_runs_there_is_no_rate_and_what_is_usual_gives_the_range() -> None:
    found = concluded([], calibration=ADAMW)
    assert found.learning_rate is found.regret is None and not found.reliable
    assert found.low is not None and found.high is not None and found.low < ADAMW.typical < found.high
    assert math.sqrt(found.low * found.high) == pytest.approx(ADAMW.typical)
    assert found.reason == "no short runs were made"
    nothing = concluded([])
    assert (nothing.learning_rate, nothing.low, nothing.high, nothing.regret) == (None,) * 4


@pytest.mark.parametrize(
    ("loss", "reason", "highest"),
    [
        (lambda _: 1.5, "no short run lowered the loss of rows that it did not see", 6.0),
        (
            lambda octave: 1.5 if octave <= 2.0 else math.inf,
            "no short run lowered the loss of other rows, and from 16 on they overflowed",
            2.0,
        ),
        (
            lambda octave: 0.5 if octave > -2.0 else math.inf,
            "no short run lowered the loss of other rows, and from 0.016 on they overflowed",
            -6.0,
        ),
        (
            lambda _: math.inf,
            "every short run overflowed, even at 0.016; check the scale of inputs, targets and loss",
            -6.0,
        ),
    ],
)
def test_runs_that_lower_nothing_leave_what_is_usual_up_to_where_they_stayed_finite(
    loss: Callable[[float], float], reason: str, highest: float
) -> None:
    found = concluded(runs(loss), calibration=SGD)
    usual = posterior([Belief(math.log2(SGD.typical), USUAL_SCALE, USUAL_FREEDOM)], highest)
    assert (found.learning_rate, found.low, found.high) == (
        None,
        math.exp2(usual.quantile(0.5 - INTERVAL / 2)),
        math.exp2(usual.quantile(0.5 + INTERVAL / 2)),
    )
    assert found.reason == reason and not found.reliable and found.regret is None


def belief(found: list[ShortRun], **whole: float | bool | None) -> Belief:
    curve = curve_of(found, [1.0, 1.0])
    assert curve is not None
    return belief_of(found, [1.0, 1.0], curve, KNOWN, WholeRun(**whole))


def test_runs_say_the_centre_of_their_valley_less_their_bias() -> None:
    """The valley is even about the rate 1."""
    agreed, alone = belief(AGREED), belief(runs(sharp))
    assert (agreed.centre, agreed.scale, agreed.freedom) == pytest.approx((-1.0, KNOWN.scale, RUNS_FREEDOM))
    assert (alone.centre, alone.scale) == pytest.approx((-1.0, KNOWN.scale + NOISE_SCALE * UNKNOWN_NOISE))


def test_seeds_that_disagree_say_it_less_surely() -> None:
    """Gaps of 2 g at four rates and 0 at three deviate by 2 g (2 / 7)^(1/2), the mean of the seeds by half of it."""
    gap = 0.1
    assert belief(apart(gap)).scale == pytest.approx(KNOWN.scale + NOISE_SCALE * gap * math.sqrt(2.0 / 7.0))
    assert octaves(concluded(AGREED)) < octaves(concluded(apart(gap)))
    assert octaves(concluded(AGREED)) < octaves(concluded(runs(sharp)))


def test_runs_on_parts_of_batches_say_it_elsewhere_and_less_surely() -> None:
    whole, part = belief(runs(sharp)), belief(runs(sharp), parts=True)
    assert part.centre == pytest.approx(whole.centre - PARTS_BIAS)
    assert part.scale == pytest.approx(whole.scale * PARTS_SCALE)
    told, less = concluded(runs(sharp), calibration=SGD), concluded(runs(sharp), calibration=SGD, parts=True)
    assert told.regret is not None and less.regret is not None and told.regret < less.regret
    assert octaves(told) < octaves(less)


@pytest.mark.parametrize("parts", [False, True])
def test_what_runs_alone_say_is_students_t(parts: bool) -> None:
    """With 4 degrees of freedom (1 + s) / 2 lies below 2 (cos(acos(a) / 3) / a - 1)^(1/2), where a^2 = 1 - s^2."""
    root = math.sqrt(1.0 - INTERVAL * INTERVAL)
    reach = 2.0 * math.sqrt(math.cos(math.acos(root) / 3.0) / root - 1.0)
    scale = ADAMW.scale * (PARTS_SCALE if parts else 1.0)
    centre = -ADAMW.drift * DOUBLINGS - (PARTS_BIAS if parts else 0.0)
    found = concluded(AGREED, parts=parts)
    assert found.low is not None and found.high is not None
    assert math.log2(found.low) == pytest.approx(centre - reach * scale, abs=0.02)
    assert math.log2(found.high) == pytest.approx(centre + reach * scale, abs=0.02)


@settings(deadline=None)  # of a busy machine
@given(st.integers(-20, 20))
def test_what_runs_alone_say_follows_the_unit_of_the_rate(moved: int) -> None:
    plain, other = concluded(runs(sharp)), concluded(runs(sharp, moved=moved))
    for first, second in ((plain.learning_rate, other.learning_rate), (plain.low, other.low), (plain.high, other.high)):
        assert first is not None and second == pytest.approx(first * 2.0**moved)
    assert other.regret == pytest.approx(plain.regret)


def test_what_is_usual_draws_the_rate_towards_itself() -> None:
    alone = concluded(runs(sharp)).learning_rate
    assert alone is not None
    low, high = (
        concluded(runs(sharp), calibration=Calibration(alone * factor, ADAMW.drift, ADAMW.scale)).learning_rate
        for factor in (0.125, 8.0)
    )
    assert low is not None and high is not None and low < alone < high


@pytest.mark.parametrize("highest", [-2.0, 0.0, 2.0])
def test_no_rate_lies_above_the_highest_whose_run_stayed_finite(highest: float) -> None:
    found_runs = runs(lambda octave: 0.5 - 0.05 * octave if octave <= highest else math.inf)
    free = concluded(found_runs, calibration=Calibration(2.0**-6, 3.0 / DOUBLINGS, 0.5))
    assert free.learning_rate is not None and free.high is not None
    assert free.learning_rate < free.high < 2.0**highest
    over = concluded(found_runs, calibration=Calibration(2.0**6, -6.0 / DOUBLINGS, 0.5))
    assert over.low is not None and over.high is not None and over.learning_rate is not None
    assert over.low < over.high <= 2.0**highest >= over.learning_rate, "a range of its own, below that rate"


def test_reliable_is_what_loses_little_of_new_weights_with_a_studied_optimizer() -> None:
    told, doubted = (concluded(apart(gap), calibration=KNOWN) for gap in (0.0, 5.0))
    assert told.regret is not None and doubted.regret is not None and told.regret <= RELIABLE < doubted.regret
    assert told.reliable and told.reason == "the short runs set the rates apart"
    assert not doubted.reliable
    assert (
        doubted.reason == f"the short runs leave it open, and {100 * doubted.regret:.0f} % of the progress may be lost"
    )


def test_what_no_study_holds_or_parts_of_batches_show_is_never_reliable() -> None:
    new, trained, unknown, part = (
        concluded(AGREED, calibration=KNOWN),
        concluded(AGREED, calibration=KNOWN, new=False),
        concluded(AGREED),
        concluded(AGREED, calibration=KNOWN, parts=True),
    )
    assert new.reliable and not trained.reliable and not unknown.reliable and not part.reliable
    assert part.reason == "short runs had only parts of a batch"
    assert trained.reason == TRAINED
    assert unknown.reason == ("short runs of this optimizer are not known to find the rate")


def test_trained_weights_have_no_typical_rate_but_the_peak_of_their_run() -> None:
    alone, without = concluded(AGREED, calibration=KNOWN, new=False), concluded([], calibration=KNOWN, new=False)
    assert (without.low, without.high) == (None, None), "no range from new weights"
    peak = concluded([], calibration=KNOWN, new=False, peak=0.25)
    assert peak.low is not None and peak.high is not None and peak.learning_rate is None
    assert math.sqrt(peak.low * peak.high) == pytest.approx(0.25)
    higher = concluded(AGREED, calibration=KNOWN, new=False, peak=64.0)
    assert alone.learning_rate is not None and higher.learning_rate is not None
    assert alone.learning_rate < higher.learning_rate


def test_from_trained_weights_higher_rates_are_wanted_than_short_runs_say() -> None:
    shown = belief(AGREED, new=False)
    assert (shown.centre, shown.scale) == pytest.approx((-TRAINED_BIAS, TRAINED_SCALE)) and shown.centre > 0.0
    assert lost(0.1, TRAINED_STEEPNESS) == pytest.approx(TRAINED_STEEPNESS * lost(0.1), rel=0.01)
    new, trained = concluded(AGREED), concluded(AGREED, new=False)
    assert new.regret is not None and trained.regret is not None and trained.regret > TRAINED_STEEPNESS * new.regret


def test_the_peak_of_the_run_stands_beside_the_typical_rate_of_new_weights() -> None:
    plain, low, high = (
        concluded(runs(sharp), calibration=KNOWN, peak=peak).learning_rate for peak in (None, 2.0**-6, 2.0**4)
    )
    assert plain is not None and low is not None and high is not None and low < plain < high


def test_longer_runs_want_lower_rates_and_beyond_the_study_they_are_less_sure() -> None:
    usual, longer = (belief(AGREED, steps=steps) for steps in (STUDIED_STEPS, 16.0 * STUDIED_STEPS))
    assert usual == belief(AGREED)
    assert longer.centre == pytest.approx(usual.centre - 4.0 * KNOWN.drift)
    assert longer.scale == pytest.approx(usual.scale + 4.0 * BEYOND_SCALE)
    assert concluded(AGREED, calibration=KNOWN, steps=1000).reliable
    assert not concluded(AGREED, calibration=KNOWN, steps=1e6).reliable


def test_a_run_as_short_as_the_short_ones_wants_their_rate() -> None:
    assert belief(AGREED, steps=STEPS).centre == belief(AGREED, steps=STEPS / 2).centre == pytest.approx(0.0)


@pytest.mark.parametrize(("gain", "reliable"), [(2.0 * LEAST_GAIN, True), (0.9 * LEAST_GAIN, False)])
def test_runs_that_hardly_lower_the_loss_are_not_reliable(gain: float, reliable: bool) -> None:
    small = [replace(run, loss=1.0 - gain * (1.0 - run.loss)) for run in AGREED]
    found = concluded(small, calibration=KNOWN)
    assert found.reliable is reliable
    if not reliable:
        assert found.reason == "the best short run lowered the loss by 4.5 % only"


def test_runs_most_of_which_overflow_are_not_reliable_and_no_rate_is_above_the_first_that_did() -> None:
    """One seed overflows from a lower rate on than the other."""
    first = runs(lambda octave: 1.0 - 0.01 * (octave + 6.0) if octave <= 0.0 else math.inf)
    second = runs(lambda octave: 1.0 - 0.01 * (octave + 6.0) if octave <= -4.0 else math.inf, 1)
    found = concluded([*first, *second], calibration=Calibration(2.0**6, 0.0, 0.5))
    assert found.learning_rate is not None and found.high is not None and not found.reliable
    assert found.learning_rate <= found.high <= 2.0**-4
    assert found.reason == ("most short runs overflowed, from 0.25 on; check the scale of inputs, targets and loss")
