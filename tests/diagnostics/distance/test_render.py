import math
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.distance.measure import NO_MODEL, NO_SIZE, NO_SPECTRUM
from fromage_cli.diagnostics.distance.render import advise, headline, render, sentence
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


def test_the_page_under_verbose(make_result):
    golden("verbose-80.txt", page(make_result(), verbose=True))


def test_the_furthest_come_first_and_hidden_rows_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", relative_distance=0.01 * index) for index in range(1, 21))
    text = page(make_result(layers=layers))
    assert text.index("w20 ") < text.index("w19 ") and "15 more, moved 0.15 or less: --all" in text
    assert "w1 " in page(make_result(layers=layers), show_all=True)


def test_layers_that_are_not_finite_come_first_and_those_without_a_size_last(make_result, make_layer):
    lost = make_layer("lost", second_norm=math.nan, relative_distance=NO_SIZE, angle=NO_SIZE)
    zero = make_layer("zero", first_norm=0.0, relative_distance=NO_SIZE, angle=NO_SIZE)
    lines = page(make_result(layers=(zero, make_layer("moved"), lost))).splitlines()
    rows = [line.split()[0] for line in lines if line.startswith(("lost ", "zero ", "moved "))]
    assert rows == ["moved", "lost", "moved", "zero"]  # the first is the sentence


def test_without_model_steps_and_spectrum(make_result, make_layer):
    no_step = Missing(Why.STEP_UNKNOWN, "the step of the second checkpoint is not known")
    without = {"spectral_distance": NO_SPECTRUM, "implied_step": ImpliedStep(no_step, no_step)}
    conditions = ConditionNumber(NO_SPECTRUM, NO_SPECTRUM, NO_SPECTRUM)
    plain = make_layer(**without, condition_number=conditions, relative_distance=NO_SIZE)
    function = dict.fromkeys(("function_distance", "largest_function_distance", "log10_bound", "bound"), NO_MODEL)
    result = make_result(
        layers=(make_layer(**without), plain), second_step=STEP_UNKNOWN, product_spectral=NO_SPECTRUM, **function
    )
    text = page(result)
    assert "straight" not in text and "Each step" not in text
    assert "Outputs  —  were not compared" in text and "not known" not in text
    more = page(result, verbose=True)
    assert "κ moved" not in more and "spectral " not in more.split("Moved:")[0]
    said = " ".join(more.split())
    assert said.count("no model was given") == 1 and said.count("the step of the second") == 1
    bare = make_result(product=NO_SIZE, product_spectral=NO_SIZE, **function)
    assert "both networks" not in page(bare, verbose=True)


def test_outputs_differ_by_a_share_or_a_multiple(make_result):
    assert "Outputs differ  31 %      of their size; worst row 80 %" in page(make_result())
    far = make_result(function_distance=497.0, largest_function_distance=1962.0)
    assert "Outputs differ  497 ×     their size; worst row 1962 ×" in page(far)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "layers.0.weight moved most: 0.25 × its own norm, turned by 14.1°."),
        ({"angle": 1e-5}, "layers.0.weight moved most: 0.25 × its own norm."),
        ({"relative_distance": 0.0, "angle": 0.0}, "Nothing moved: the two hold the same numbers in 1 layer."),
        ({"relative_distance": NO_SIZE}, "There is no distance: 1 layer is zero or not finite."),
    ],
)
def test_the_answer(make_result, make_layer, changes, words):
    assert sentence(make_result(layers=(make_layer(**changes),))) == words


def test_advice(make_result, make_layer):
    def told(result):
        return advise(result, "a.pt", "b.pt", " --model auto", " --model file.py:build --batch FILE")

    command = "fromage-diag breakdown a.pt --direction to:b.pt --model auto"
    assert told(make_result()) == f"{command} shows how much of this way one step may go."
    without = told(make_result(function_distance=NO_MODEL))
    assert without.startswith("fromage-diag distance a.pt b.pt --model file.py:build --batch FILE compares the outputs")
    assert without.endswith("In file.py, build() returns your network.")
    same = make_result(layers=(make_layer(relative_distance=0.0),))
    assert told(same).startswith("check that you gave two different checkpoints")
    assert told(make_result(layers=(make_layer(relative_distance=NO_SIZE),))) == ""


def test_outputs_that_differ_by_more_than_their_size_are_judged(make_result):
    usual, judged = "usual from untrained weights", "the two give different answers"
    untrained, trained = (make_result(function_distance=12.0, first_step=step) for step in (0, 10))
    assert usual in page(untrained) and judged not in page(untrained)
    assert judged in page(trained) and usual not in page(trained)
    assert judged not in page(make_result(function_distance=0.9)) and usual not in page(make_result())


def test_the_headline_as_a_table(make_result, make_layer):
    values = {row[0]: row[1] for row in headline(make_result()).rows}
    assert values["moved_most"] == "layers.0.weight" and values["moved"] == 0.25
    assert values["turned"] == pytest.approx(14.066, abs=1e-3) and values["training_steps"] == 1000
    assert (values["straight_step"], values["outputs_differ"]) == (2.23e-4, 0.31)
    none = headline(make_result(layers=(make_layer(relative_distance=NO_SIZE),), second_step=STEP_UNKNOWN))
    assert [row[1] for row in none.rows[:6]] == [None] * 6


def test_names_in_a_reason_cannot_act_either(make_result):
    text = page(make_result(product=Missing(Why.RESTS_ON_MISSING, "a\x1b[31m is zero or not finite")), verbose=True)
    assert "\x1b" not in text and "not known: product, because a\\x1b[31m is zero" in text


def test_layers_without_a_relative_distance_are_not_called_the_same(make_result, make_layer):
    still = make_layer(relative_distance=0.0, angle=0.0)
    risen = make_layer("b", first_norm=0.0, relative_distance=NO_SIZE, angle=NO_SIZE)
    assert sentence(make_result(layers=(still, risen))) == (
        "Nothing moved in 1 of 2 layers; the others are zero or not finite in one of the two."
    )
    zero = make_layer("c", first_norm=0.0, second_norm=0.0, relative_distance=NO_SIZE, angle=NO_SIZE)
    assert (
        sentence(make_result(layers=(still, zero))) == "Nothing moved: the two hold the same numbers in all 2 layers."
    )


def test_ascii_and_names_that_cannot_act(make_result, make_layer):
    text = page(make_result(layers=(make_layer("a\x1b[31m"),)), ascii_only=True)
    assert text.isascii() and "\x1b" not in text
