"""Each sentence of advice, each reason for none, and how long they are."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fromage_cli.diagnostics.hypergrad.advice import advised, move_of, title
from fromage_cli.diagnostics.hypergrad.result import HyperparameterAnswers
from fromage_cli.missing import Missing, Why, known

Make = Callable[..., HyperparameterAnswers]
UNKNOWN = Missing(Why.NOT_DEFINED, "the step of muon is not differentiated here")


def with_answers(found: HyperparameterAnswers, **changes: Any) -> HyperparameterAnswers:
    """Every answer changed alike."""
    return replace(found, answers=tuple(replace(one, **changes) for one in found.answers))


def with_continued(found: HyperparameterAnswers, **changes: Any) -> HyperparameterAnswers:
    """The answer of the moved runs changed."""
    return replace(found, answers=(found.answers[0], replace(found.answers[1], **changes), found.answers[2]))


def implicit(found: HyperparameterAnswers, **changes: Any) -> HyperparameterAnswers:
    """Only where training would settle."""
    return replace(found, answers=(replace(found.answers[2], **{"stderr": 0.01, **changes}),))


SENTENCES: list[tuple[Callable[[Make], HyperparameterAnswers], str, str]] = [
    (
        lambda make: make(),
        "raise",
        "Raise weight decay: +10 % should lower the validation loss by 0.0040 ± 0.0005 after 50 more steps.",
    ),
    (
        lambda make: make(slope=0.4),
        "lower",
        "Lower weight decay: −10 % should lower the validation loss by 0.0040 ± 0.0005 after 50 more steps.",
    ),
    (
        lambda make: make("label-smoothing", value=0.0),
        "raise",
        "Add label smoothing: 0.01 of it should lower the validation loss by 0.0040 ± 0.0005 after 50 more steps.",
    ),
    (
        lambda make: make("l1", value=0.0, slope=0.4),
        "keep",
        "Leave l1 at 0: 0.01 of it would raise the validation loss by 0.0040 ± 0.0005 after 50 more steps.",
    ),
    (
        lambda make: make(scope="group:1", slope=-0.01, stderr=0.001),
        "keep",
        "Leave weight decay of group 1 at 0.1: 0.01 more or less changes the validation loss by 0.0001 only.",
    ),
    (
        lambda make: make(slope=-1e-5, stderr=1e-5),
        "keep",
        "Leave weight decay at 0.1: 0.01 more or less changes the validation loss by 1e-07 only.",
    ),
    (
        lambda make: make("dropout", stderr=0.3),
        "unclear",
        "Do not act on dropout: the validation rows do not tell the sign (-0.004 ± 0.003 for 10 %).",
    ),
    (
        lambda make: make(value=0.0, stderr=0.3),
        "unclear",
        "Do not act on weight decay: the validation rows do not tell the sign (-0.004 ± 0.003 for 0.01).",
    ),
    (
        lambda make: make("l1", metasmoothness=0.2),
        "unclear",
        "Do not act on l1: both halves of the move lead apart (cosine 0.2), so what it does is chance.",
    ),
    (
        lambda make: make("l1", metasmoothness=0.2, draws=4),
        "raise",
        "Raise l1: +10 % should lower the validation loss by 0.0040 ± 0.0005 after 50 more steps.",
    ),
    (
        lambda make: make(metasmoothness=0.2, draws=4, stderr=0.15),
        "unclear",
        "Do not act on weight decay: 4 random repeats do not tell the sign (-0.004 ± 0.0015 for 10 %).",
    ),
    (
        lambda make: with_answers(make(), gradient=math.nan),
        "unclear",
        "Do not act on weight decay: the validation loss is not finite.",
    ),
    (
        lambda make: implicit(make()),
        "raise",
        "Raise weight decay: +10 % should lower the validation loss by 0.0080 ± 0.0001 once training has settled.",
    ),
    (
        lambda make: implicit(make(), negative_curvature=True),
        "unclear",
        "Do not act on weight decay: the curvature is negative somewhere, so training has not settled.",
    ),
    (
        lambda make: implicit(make(), less_damped=-1.1),
        "raise",
        "Raise weight decay: +10 % should lower the validation loss once training has settled; "
        "the damping decides by how much.",
    ),
    (
        lambda make: implicit(make(), stderr=UNKNOWN),
        "unclear",
        "Do not act on weight decay: its standard error is not known (the step of muon is not differentiated here).",
    ),
    (
        lambda make: with_continued(make(), gradient=Missing(Why.NOT_EVALUATED, "The training loss is nan.")),
        "unclear",
        "Do not act on weight decay: with it moved, the training loss is nan.",
    ),
    (
        lambda make: make("ridge", value=-0.1, slope=0.4),
        "raise",
        "Raise ridge: +0.01 should lower the validation loss by 0.0040 ± 0.0005 after 50 more steps.",
    ),
    (
        lambda make: make("label-smoothing", value=0.95, slope=-4.0),
        "raise",
        "Raise label smoothing: +0.025 should lower the validation loss by 0.011 ± 0.001 after 50 more steps.",
    ),
    (
        lambda make: implicit(make(), residual=0.03),
        "unclear",
        "Do not act on weight decay: the solve has not settled (residual 0.03).",
    ),
    (
        lambda make: implicit(make(), less_damped=0.1),
        "unclear",
        "Do not act on weight decay: the sign depends on the damping.",
    ),
    (
        lambda make: implicit(make(), more_damped=0.1),
        "unclear",
        "Do not act on weight decay: the sign depends on the damping.",
    ),
    (
        lambda make: with_answers(make(), gradient=UNKNOWN),
        "unclear",
        "Nothing is known of weight decay: the step of muon is not differentiated here.",
    ),
]


@pytest.mark.parametrize(("case", "direction", "sentence"), SENTENCES)
def test_each_sentence(
    make_answers: Make, case: Callable[[Make], HyperparameterAnswers], direction: str, sentence: str
) -> None:
    found = advised(case(make_answers), 2.0)
    assert (found.advice, found.direction) == (sentence, direction)
    words = [word for word in sentence.split() if re.search(r"\w", word)]
    assert len(words) <= 20


def test_what_it_rests_on(make_answers: Make) -> None:
    found = make_answers()
    assert advised(found, 2.0).advised_by == "continued"
    moved = found.answers[1]
    without = replace(found, answers=(found.answers[0], replace(moved, gradient=UNKNOWN), found.answers[2]))
    assert advised(without, 2.0).advised_by == "unroll"
    assert advised(without, 2.0).direction == "unclear", "a derivative alone has no standard error"
    assert advised(implicit(found), 2.0).advised_by == "gauss-newton"
    nothing = advised(with_answers(found, gradient=UNKNOWN), 2.0)
    assert nothing.advised_by is None and isinstance(nothing.expected_change, Missing)
    assert advised(replace(found, answers=()), 2.0).advice == "Nothing is known of weight decay: nothing was found."


def test_few_parts_or_draws_take_more_standard_errors(make_answers: Make) -> None:
    """Student's t of 2, 4 and 8 values: 12.7, 3.2 and 2.4."""
    for parts, draws, needed in ((8, 1, 2.37), (2, 1, 12.8), (8, 4, 3.19), (2, 4, 12.8), (4, 1, 3.19)):
        for times, direction in ((1.01, "raise"), (0.98, "unclear")):
            found = make_answers(slope=-1.0, stderr=1.0 / (needed * times), draws=draws)
            assert advised(found, 2.0, parts=parts).direction == direction, (parts, draws)
    assert advised(make_answers(), 2.0, parts=1).direction == "unclear"


@pytest.mark.parametrize(("value", "slope", "change"), [(0.1, -0.4, -0.004), (0.1, 0.4, -0.004), (0.0, 0.4, 0.004)])
def test_the_change_that_is_expected(make_answers: Make, value: float, slope: float, change: float) -> None:
    assert known(advised(make_answers(value=value, slope=slope), 2.0).expected_change) == pytest.approx(change)


def test_a_dropout_rate_is_told_by_its_standard_error_and_not_by_smoothness(make_answers: Make) -> None:
    assert advised(make_answers("dropout", metasmoothness=0.0, draws=4), 2.0).direction == "raise"


@pytest.mark.parametrize(
    ("slope", "words"), [(-4e24, "by 4.0e+22 ± 5.0e-04 after"), (-4e-6, None), (-4e3, "by 40 ± 0 after")]
)
def test_large_numbers_are_short(make_answers: Make, slope: float, words: str | None) -> None:
    found = advised(make_answers(slope=slope, stderr=0.05 if abs(slope) > 1 else 1e-7), 1e-6)
    assert words is None or words in str(found.advice)
    assert len(str(found.advice)) < 120


def test_names_and_moves(make_answers: Make) -> None:
    assert title("weight-decay") == "weight decay" and title("l1") == "l1"
    assert title("dropout", "blocks.0.drop.p") == "dropout of blocks.0.drop.p"
    assert title("weight-decay", "group:2") == "weight decay of group 2"
    moves = [move_of(make_answers(name, value=value)) for name, value in (("l1", 0.5), ("l1", 0.0), ("dropout", 0.96))]
    assert moves == [pytest.approx(0.05), 0.01, pytest.approx(0.02)]
