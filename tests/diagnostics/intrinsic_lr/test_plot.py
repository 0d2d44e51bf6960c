import re
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.intrinsic_lr.plot import curves, draw

pytest.importorskip("matplotlib")


@pytest.fixture
def dropped(make_result, make_layer, drop):
    layers = (make_layer("a_$x$", drop=drop), make_layer("b", drop=drop), make_layer("c"))
    return make_result(layers=layers, drop_factor=10.0)


def test_layers_of_one_course_share_a_curve(dropped):
    assert [names for _, names in curves(dropped)] == [["a_$x$", "b"]]


def test_what_stands_in_it_and_that_it_is_the_same_each_time(dropped):
    text = draw(dropped, "run/step-9.pt", "svg").decode()
    words = re.findall(r">([^<>]+)</text>", text)
    assert "a_$x$ and 1 more" in words and "steps after the drop" in words and "run/step-9.pt" in words
    assert any("divided by 10" in word for word in words) and "0.2" in words
    assert draw(dropped, "run/step-9.pt", "svg").decode() == text


def test_png_and_no_curve_at_all(make_result):
    assert draw(make_result(drop_factor=2.0), "x", "png").startswith(b"\x89PNG")
    assert b"No layer's course after the drop is known." in draw(make_result(drop_factor=2.0), "x", "svg")


def test_layers_without_a_course_are_left_out_and_it_is_said(dropped):
    assert b"1 layer is not drawn (no course is known): c." in draw(dropped, "x", "svg")


def test_of_many_curves_the_first_are_named(make_result, make_layer, drop):
    layers = tuple(make_layer(f"l.{place}", drop=replace(drop, final=place / 100.0)) for place in range(143))
    result = make_result(layers=layers, drop_factor=10.0)
    (axes,) = draw.__wrapped__(result, "x").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        *(f"l.{place}" for place in range(8)),
        "other curves",
    ]
    assert len({line.get_marker() for line in axes.lines[:8]}) == 8, "told apart without colour"
    assert b"Named are the first 8 curves in the order of the network; 135 more are grey." in draw(result, "x", "svg")


def test_untested_invariance_is_warned_of(make_result, make_layer, drop):
    untested = make_result(layers=(make_layer("a", drop=drop, verdict="untested"),), drop_factor=10.0)
    assert b"Warning: this holds for scale-invariant layers only" in draw(untested, "x", "svg")
    tested = make_result(layers=(make_layer("a", drop=drop),), drop_factor=10.0)
    assert b"Warning" not in draw(tested, "x", "svg")
