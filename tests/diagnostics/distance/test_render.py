from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.distance.measure import without_function
from fromage_cli.diagnostics.distance.render import render, summary
from fromage_cli.diagnostics.distance.result import Absent, ConditionNumber, ImpliedStep
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
    plain = make_layer(
        spectral_distance=None, implied_step=ImpliedStep(), condition_number=ConditionNumber(), relative_distance=None
    )
    text = page(
        make_result(
            layers=(make_layer(spectral_distance=None, implied_step=ImpliedStep()), plain),
            second_step=None,
            function_distance=None,
            largest_function_distance=None,
            log10_bound=None,
            bound=None,
            product_spectral=None,
            absent=without_function(),
        )
    )
    assert "straight" not in text and "spectral" not in text and "κ" not in text and "Between step" not in text
    assert text.count("no model was given") == 1
    assert "both networks" not in page(
        make_result(
            product=None,
            product_spectral=None,
            function_distance=None,
            largest_function_distance=None,
            log10_bound=None,
            bound=None,
        )
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relative_distance": 0.0, "angle": 0.0}, "The two hold the same numbers in 1 layer."),
        ({"relative_distance": None}, "Of 1 layer none has a relative distance."),
    ],
)
def test_sentences(make_result, make_layer, changes, words):
    assert summary(make_result(layers=(make_layer(**changes),))) == words


def test_names_in_a_reason_cannot_act_either(make_result):
    text = page(make_result(absent=(Absent("product", "a\x1b[31m is zero or not finite"),)))
    assert "\x1b" not in text and "no product: a\\x1b[31m is zero" in text


def test_layers_without_a_relative_distance_are_not_called_the_same(make_result, make_layer):
    still = make_layer(relative_distance=0.0, angle=0.0)
    risen = make_layer("b", first_norm=0.0, relative_distance=None, angle=None)
    assert summary(make_result(layers=(still, risen))) == (
        "Of 2 layers 1 holds the same numbers in both; the others have no relative distance."
    )
    zero = make_layer("c", first_norm=0.0, second_norm=0.0, relative_distance=None, angle=None)
    assert summary(make_result(layers=(still, zero))) == "The two hold the same numbers in all of 2 layers."


def test_ascii_and_names_that_cannot_act(make_result, make_layer):
    text = page(make_result(layers=(make_layer("a\x1b[31m"),)), ascii_only=True)
    assert text.isascii() and "\x1b" not in text
