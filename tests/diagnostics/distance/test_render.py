from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.distance.measure import NO_MODEL, NO_SIZE, NO_SPECTRUM
from fromage_cli.diagnostics.distance.render import render, summary
from fromage_cli.diagnostics.distance.result import ConditionNumber, ImpliedStep
from fromage_cli.missing import STEP_UNKNOWN, Missing, Why
from tests.diagnostics.pages import compare, drawn

page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result, width):
    text = page(make_result(), width)
    golden(f"page-{width}.txt", text)
    assert max(map(len, text.splitlines())) <= width


def test_the_furthest_come_first_and_hidden_rows_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", relative_distance=0.01 * index) for index in range(1, 21))
    text = page(make_result(layers=layers))
    assert text.index("w20") < text.index("w19") and "8 of 20 rows hidden" in text
    assert "w1 " in page(make_result(layers=layers), show_all=True)


def test_without_model_steps_and_spectrum(make_result, make_layer):
    no_step = Missing(Why.STEP_UNKNOWN, "the step of the second checkpoint is not known")
    without = {"spectral_distance": NO_SPECTRUM, "implied_step": ImpliedStep(no_step, no_step)}
    conditions = ConditionNumber(NO_SPECTRUM, NO_SPECTRUM, NO_SPECTRUM)
    plain = make_layer(**without, condition_number=conditions, relative_distance=NO_SIZE)
    function = dict.fromkeys(("function_distance", "largest_function_distance", "log10_bound", "bound"), NO_MODEL)
    text = page(
        make_result(
            layers=(make_layer(**without), plain), second_step=STEP_UNKNOWN, product_spectral=NO_SPECTRUM, **function
        )
    )
    assert "straight" not in text and "δ spectral" not in text and "κ" not in text and "Between step" not in text
    said = " ".join(text.split())
    assert said.count("no model was given") == 1 and said.count("the step of the second") == 1
    assert "both networks" not in page(make_result(product=NO_SIZE, product_spectral=NO_SIZE, **function))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relative_distance": 0.0, "angle": 0.0}, "The two hold the same numbers in 1 layer."),
        ({"relative_distance": NO_SIZE}, "Of 1 layer none has a relative distance."),
    ],
)
def test_sentences(make_result, make_layer, changes, words):
    assert summary(make_result(layers=(make_layer(**changes),))) == words


def test_names_in_a_reason_cannot_act_either(make_result):
    text = page(make_result(product=Missing(Why.RESTS_ON_MISSING, "a\x1b[31m is zero or not finite")))
    assert "\x1b" not in text and "not known: product, because a\\x1b[31m is zero" in text


def test_layers_without_a_relative_distance_are_not_called_the_same(make_result, make_layer):
    still = make_layer(relative_distance=0.0, angle=0.0)
    risen = make_layer("b", first_norm=0.0, relative_distance=NO_SIZE, angle=NO_SIZE)
    assert summary(make_result(layers=(still, risen))) == (
        "Of 2 layers 1 holds the same numbers in both; the others have no relative distance."
    )
    zero = make_layer("c", first_norm=0.0, second_norm=0.0, relative_distance=NO_SIZE, angle=NO_SIZE)
    assert summary(make_result(layers=(still, zero))) == "The two hold the same numbers in all of 2 layers."


def test_ascii_and_names_that_cannot_act(make_result, make_layer):
    text = page(make_result(layers=(make_layer("a\x1b[31m"),)), ascii_only=True)
    assert text.isascii() and "\x1b" not in text
