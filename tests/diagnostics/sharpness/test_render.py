import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Group
from rich.text import Text

from fromage_cli.diagnostics.sharpness.render import headline, render
from fromage_cli.diagnostics.sharpness.result import HessianEigenvalue, LayerBlock, SharpnessResult
from fromage_cli.missing import LIMIT_REACHED, OPTIMIZER_UNKNOWN, Missing, Why
from fromage_cli.terminal.answer import PageStyle
from fromage_cli.theory.random_draws import OtherDraws
from tests.diagnostics.pages import compare, drawn

NO_RATIO = Missing(Why.RESTS_ON_MISSING, "there is no ratio")
MakeResult = Callable[..., SharpnessResult]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_the_page_under_verbose(make_result: MakeResult) -> None:
    golden("verbose-80.txt", page(make_result(), verbose=True))


def test_the_first_eigenvalues_are_shown_where_several_were_asked_for(make_result: MakeResult) -> None:
    result = make_result(eigenvalues=tuple(HessianEigenvalue(40.0 - rank, 0.01) for rank in range(12)))
    assert "7 more: --all" in page(result)
    assert "more" not in page(result, show_all=True)
    assert "rank" not in page(make_result(eigenvalues=(HessianEigenvalue(46.3, 0.03),)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Tolerated     38      by SGD at 0.1, momentum 0.9"),
        ({"momentum": 0.0}, "by SGD at 0.1, without momentum"),
        ({"momentum": None, "optimizer": "adamw"}, "by AdamW at 0.1\n"),
        ({"regime": "lazy", "ratio": 0.4}, "Ratio         0.4     lazy: steps along the sharpest direction shrink"),
        ({"regime": NO_RATIO}, "Ratio         1.22    sharpness ÷ tolerated: stable below 1"),
        ({"second_moments": "16 gradients", "trained": False}, "where Adam begins it tells little"),
        ({"second_moments": "16 gradients"}, "without a state of Adam it tells little"),
        ({"preconditioned_eigenvalue": 46.3, "optimizer": "adamw"}, "curvature on these rows, as AdamW scales it"),
        ({"draws": OtherDraws(3, 40.0, 50.0)}, "40 to 50  at least, under 3 other random draws"),
        ({"first_step_sharpness": 5.0}, "0.4     from this learning rate on, after Adam's first step"),
    ],
)
def test_the_numbers_have_their_words(make_result: MakeResult, changes: dict[str, object], words: str) -> None:
    assert words in page(make_result(**changes), 160)


def test_of_groups_the_highest_rate_is_held_against_the_limit(make_result: MakeResult) -> None:
    shown = page(make_result(ratio=0.5, regime="lazy", lowest_learning_rate=0.004), 100)
    assert "Stable up to  0.0821  keep the highest rate below: there the ratio is 1" in shown
    assert "SGD at 0.004 to 0.1" in shown


def test_where_adam_begins_no_rate_is_called_stable(make_result: MakeResult) -> None:
    text = page(make_result(second_moments="16 gradients", optimizer="adam", momentum=None, regime=NO_RATIO))
    assert "Ratio 1 at  0.0821" in text and "● ratio 1 " in text and "table" not in text


def test_an_unstable_rate_stands_out(make_result: MakeResult) -> None:
    for regime, colour in (("catapult", "yellow"), ("edge-of-stability", "")):
        said = render(make_result(regime=regime), PageStyle())
        assert isinstance(said, Group) and isinstance(said.renderables[0], Text)
        assert said.renderables[0].style == colour


def test_the_ruler_takes_two_rates(make_result: MakeResult) -> None:
    assert "● stable up to here   ▼ you\n" in page(make_result())
    assert "● stable up to here   ▼ you   ▲ loss rises" in page(make_result(), verbose=True)
    alone = make_result(learning_rate=NO_RATIO, stable_learning_rate=NO_RATIO)
    assert "▲" not in page(alone)


def test_one_rate_is_the_answer_and_the_measured_step_a_second_one(make_result: MakeResult) -> None:
    text = page(make_result())
    assert "Stable up to  0.0821  there the ratio is 1" in text and "Loss rises" not in text
    assert "Loss rises    0.505" in page(make_result(), verbose=True)
    assert "Loss rises" in page(make_result(learning_rate=0.6))
    first = page(make_result(second_moments="16 gradients", optimizer="adam", momentum=None, regime=NO_RATIO))
    assert "Ratio 1 at" in first and "Loss rises" in first


def test_simulated_steps_that_speak_against_a_low_ratio_leave_no_rate_stable(make_result: MakeResult) -> None:
    model = make_result().quadratic
    assert not isinstance(model, Missing)
    spikes = replace(model, outcome="spikes", losses=(0.5, 2.4, 0.4))
    text = page(make_result(ratio=0.9, regime=NO_RATIO, quadratic=spikes))
    assert "Ratio 1 at" in text and "Stable up to" not in text and "Simulated" in text
    assert "Simulated" not in page(make_result())


def test_without_eigenvalues_there_are_no_numbers(make_result: MakeResult) -> None:
    text = page(make_result(eigenvalues=(), ratio=NO_RATIO, learning_rate=NO_RATIO))
    assert text.startswith("No curvature was measured.") and "Sharpness" not in text


def test_what_is_not_known_is_said_under_verbose(make_result: MakeResult) -> None:
    unknown = make_result(
        optimizer=None,
        ratio=OPTIMIZER_UNKNOWN,
        threshold=OPTIMIZER_UNKNOWN,
        stable_learning_rate=OPTIMIZER_UNKNOWN,
        regime=NO_RATIO,
        quadratic=OPTIMIZER_UNKNOWN,
    )
    words = "not known: quadratic model, ratio, because the optimizer is not known: name it with --optimizer NAME"
    assert words in page(unknown, 160, verbose=True) and "not known" not in page(unknown)


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = page(make_result(), ascii_only=True, verbose=True)
    assert text.isascii()
    said = " ".join(text.split())
    assert all(
        value in said for value in ("46.3 +- 0.03", "44.1", "3.96 +- 0.4", "41 +- 3.9", "38", "1.22", "0.42 x yours")
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"outcome": "spikes", "losses": (0.5, 0.9, 2.4, 1.1, 0.4)},
            "4 steps as if outputs were quadratic in the weights: the loss jumps from 0.5 to 2.4 and comes back",
        ),
        ({"outcome": "falls"}, "in the weights: the loss falls from 0.5 to 0.4"),
        (
            {"outcome": "falls"},
            "█▆▅▂▁. The network itself may leave that course: many steps may raise its curvature.",
        ),
        ({"outcome": "falls", "losses": (0.0, 0.0, 0.0)}, "in the weights: the loss stays at 0"),
        ({"outcome": "rises", "losses": (0.5, 2.4)}, "in the weights: the loss rises from 0.5 to 2.4 and stays"),
        ({"outcome": "diverges", "losses": (0.5, float("inf"))}, "in the weights: the loss grows without bound"),
        (
            {"outcome": NO_RATIO, "losses": (), "spikes": NO_RATIO},
            "For one step a quadratic model of the network is accurate up to a rate of 0.042, 0.42 × yours.",
        ),
        ({"radius": Missing(Why.ABOVE_GRID, ""), "radius_relation": "above-grid"}, "is accurate at every rate tried."),
        ({"radius": Missing(Why.BELOW_GRID, ""), "radius_relation": "below-grid"}, "is accurate at no rate tried."),
    ],
)
def test_the_quadratic_model_in_words(make_result: MakeResult, changes: dict[str, object], words: str) -> None:
    result = make_result()
    assert not isinstance(result.quadratic, Missing)
    shown = page(replace(result, quadratic=replace(result.quadratic, **changes)), 200, verbose=True)
    assert words in " ".join(shown.split())


def test_blocks_are_shown_the_sharpest_first(make_result: MakeResult) -> None:
    layers = tuple(LayerBlock(f"layers.{n}.weight", "Linear", (4, 3), 12, float(n), 0.01) for n in range(11))
    layers += (LayerBlock("late.weight", "Linear", (4, 3), 12, LIMIT_REACHED, LIMIT_REACHED),)
    text = page(make_result(layers=layers))
    assert text.index("layers.10 ") < text.index("layers.9 ")
    assert "late" not in text and "7 more, 5 or less: --all" in text
    assert "late" in page(make_result(layers=layers), show_all=True)


def test_the_headline_as_a_table(make_result: MakeResult) -> None:
    table = headline(make_result())
    assert table.columns == ("name", "value", "unit")
    assert table.rows[0] == ("ratio", 1.218, "sharpness / tolerated")
    values = {row[0]: row[1] for row in table.rows}
    assert (values["regime"], values["stable_learning_rate"]) == ("edge-of-stability", 0.0821)
    assert (values["sharpness"], values["tolerated"], values["quadratic_model"]) == (46.3, 38.0, "falls")
    assert values["loss_rises"] == pytest.approx(2.0 / 3.96)
    bare = headline(make_result(eigenvalues=(), critical_sharpness=NO_RATIO, quadratic=OPTIMIZER_UNKNOWN))
    assert {row[1] for row in bare.rows if row[0] in ("sharpness", "loss_rises", "quadratic_model")} == {None}
    assert math.isfinite(values["loss"])
