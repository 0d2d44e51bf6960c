"""The picture of the short runs: its words, and what it draws where little is known."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.suggest_lr import plot
from fromage_cli.diagnostics.suggest_lr.result import ProbeRun, SuggestedRates
from fromage_cli.missing import Missing, Why
from tests.diagnostics import pictures

MakeResult = Callable[..., SuggestedRates]
NONE = Missing(Why.INDISTINCT, "no short run lowered the loss")


def words(result: SuggestedRates) -> list[str]:
    """Every piece of text of the picture; it must be well-formed."""
    svg = plot.draw(result, "gpt/step-5.pt, step 5", "svg")
    return pictures.words(svg)


def test_it_names_the_runs_by_their_length_and_every_rate_that_matters(make_result: MakeResult) -> None:
    shown = words(make_result())
    for text in (
        "gpt/step-5.pt, step 5",
        "highest learning rate of the run",
        "loss after the run, on rows outside it",
        "after 12 steps",
        "after 24 steps",
        "best rate, 80 % likely: 0.00089 to 0.0036",
        "rate to train at: 0.00179",
        "you train at 0.003",
    ):
        assert text in shown, shown


def test_what_is_not_known_is_not_drawn(make_result: MakeResult) -> None:
    result = make_result()
    recommended = replace(result.recommended, learning_rate=NONE, low=NONE, high=NONE)
    shown = words(
        replace(result, recommended=recommended, optimizer=replace(result.optimizer, current_learning_rate=NONE))
    )
    assert not any("train at" in text or " to " in text for text in shown)
    assert "no short runs were made" in words(make_result(probe=()))


def test_runs_that_all_left_the_numbers_leave_an_empty_panel(make_result: MakeResult) -> None:
    runs = tuple(ProbeRun(rate, math.inf, 12, 0) for rate in (0.1, 1.0, 10.0))
    shown = words(make_result(probe=runs))
    assert "after 12 steps" in shown
    assert "3 short runs; 3 of them ended without a finite loss and are not drawn" in shown


def test_the_line_is_the_mean_over_seeds_and_breaks_where_one_diverged(make_result: MakeResult) -> None:
    losses = ((0.1, 1.0), (0.1, 3.0), (1.0, math.inf), (1.0, 1.0), (2.0, 1.7e308), (2.0, 1.7e308))
    runs = tuple(ProbeRun(rate, loss, 12, place) for place, (rate, loss) in enumerate(losses))
    (axes,) = plot.draw.__wrapped__(make_result(probe=runs), "gpt").axes  # type: ignore[attr-defined]
    assert pictures.points(axes, "o") == [(0.1, 1.0), (0.1, 3.0), (1.0, 1.0)]
    mean = axes.lines[1].get_ydata()
    assert (mean[0], [math.isnan(value) for value in mean[1:]]) == (2.0, [True, True])
    assert "6 short runs; 3 of them ended without a finite loss and are not drawn" in words(make_result(probe=runs))


def test_every_length_is_drawn(make_result: MakeResult) -> None:
    lengths = (12, 24, 48, 96, 192)
    runs = tuple(ProbeRun(rate, 1.0, steps, 0) for steps in lengths for rate in (0.1, 0.2))
    shown = words(make_result(probe=runs))
    assert [steps for steps in lengths if f"after {steps} steps" not in shown] == []


@pytest.mark.parametrize("format", ["svg", "png"])
def test_equal_results_give_equal_bytes(make_result: MakeResult, format: str) -> None:
    drawn = plot.draw(make_result(), "gpt", format)
    assert drawn == plot.draw(make_result(), "gpt", format)
    assert drawn != plot.draw(make_result(probe=make_result().probe[:7]), "gpt", format)
