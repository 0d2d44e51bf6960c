import math
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.hypergrad import plot
from fromage_cli.diagnostics.hypergrad.advice import advised
from fromage_cli.diagnostics.hypergrad.result import CONTINUED
from fromage_cli.missing import Missing, Why
from tests.diagnostics.pictures import points, words

pytest.importorskip("matplotlib")
UNKNOWN = Missing(Why.NOT_DEFINED, "masks have no derivative")


def panel(result):
    (axes,) = plot.draw.__wrapped__(result, "run").axes
    return axes


def changed(one, method, **changes):
    """The same with one method's answer replaced."""
    answers = tuple(replace(each, **changes) if each.method == method else each for each in one.answers)
    return replace(one, answers=answers)


def test_the_words_of_a_picture(make_result):
    shown = words(plot.draw(make_result(), "run/step-5.pt, step 5", "svg"))
    for text in (
        "run/step-5.pt, step 5",
        "Validation loss 2 now, 1.95 after 50 more steps; 256 validation rows. "
        "Bars: one standard error, where it is known.",
        "Not drawn: 3 values of single layers or without advice.",
        "weight decay of group 1",
        "0.1 → 0.11",
        "0 → 0.01",
        "↑ raise",
        "−0.004 ± 0.0005",
        "keep",
        "+0.0001 ± 0.0002",
        "unclear",
        "those steps taken, with the value moved",
        "derivative through those steps",
        "settled, by gauss-newton",
        "less than 0.001: not worth a move",
    ):
        assert text in shown, text
    assert any(text.startswith("Add label smoothing: 0.01 of it should lower the validation loss") for text in shown)


def test_every_answer_is_the_slope_times_the_move(make_result, make_answers):
    result = make_result(hyperparameters=(advised(make_answers(), 2.0), advised(make_answers(value=0.0), 2.0)))
    axes = panel(result)
    taken = [x for x, _ in points(axes, "o")]
    derivative = [x for x, _ in points(axes, "s")]
    settled = [x for x, _ in points(axes, "^")]
    assert taken == pytest.approx([-0.4 * 0.01] * 2) and derivative == pytest.approx([-0.408 * 0.01] * 2)
    assert settled == pytest.approx([-0.8 * 0.01] * 2)
    heights = [height for marker in "os^" for _, height in points(axes, marker)]
    assert len({*heights}) == 6 and heights[0] > heights[2] > heights[4] > -0.5 > heights[1]


def test_bars_are_one_standard_error_of_the_change(make_result, make_answers):
    axes = panel(make_result(hyperparameters=(advised(make_answers(), 2.0),)))
    bars = [segment[:, 0] for bar in axes.collections for segment in bar.get_segments()]
    assert [sorted(bar) for bar in bars] == [pytest.approx([-0.0045, -0.0035])]


def test_the_axis_holds_every_answer_and_is_even_within_the_band(make_result):
    axes = panel(make_result())
    low, high = axes.get_xlim()
    places = [x for marker in "os^" for x, _ in points(axes, marker)]
    assert low == -high and all(low < x < high for x in places)
    assert axes.get_xaxis().get_transform().linthresh == pytest.approx(0.001)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == ["−0.01", "−0.001", "0", "0.001", "0.01"]


def test_answers_that_are_not_known_are_left_out_and_it_is_said(make_result, make_answers):
    one = advised(changed(make_answers("a$x$\n"), "unroll", gradient=UNKNOWN), 2.0)
    shown = words(plot.draw(make_result(hyperparameters=(one,)), "run", "svg"))
    assert "1 answer is not drawn (not known): a$x$\\n by unroll." in shown and "a$x$\\n" in shown
    assert "derivative through those steps" not in shown
    nothing = one
    for method in ("continued", "gauss-newton"):
        nothing = changed(nothing, method, gradient=UNKNOWN)
    shown = words(plot.draw(make_result(hyperparameters=(advised(nothing, 2.0),)), "run", "svg"))
    assert "unclear" in shown


def test_without_hyperparameters_the_picture_says_so(make_result):
    for rows in ((), make_result().hyperparameters[-1:]):
        shown = words(plot.draw(make_result(hyperparameters=rows), "run", "svg"))
        assert "There is no hyperparameter that could be moved." in shown


def test_methods_are_told_apart_without_colour():
    assert len({marker for _, marker, _ in plot.METHODS.values()}) == len(plot.METHODS)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 5e-324, 1e-200, 1.0, -1e200, 1.7e308])
def test_whatever_was_measured_can_be_drawn(make_result, make_answers, value):
    drawn = advised(changed(make_answers(), CONTINUED, gradient=value, stderr=abs(value)), 2.0)
    for change in ({}, {"val_loss": value}):
        result = make_result(hyperparameters=(drawn, advised(make_answers(), 2.0)), **change)
        for format in ("svg", "png"):
            assert plot.draw(result, "run", format) == plot.draw(result, "run", format)
