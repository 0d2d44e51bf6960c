import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from fromage_cli.diagnostics.distance import plot
from fromage_cli.diagnostics.distance.result import ImpliedStep
from fromage_cli.missing import Missing, Why
from tests.diagnostics.pictures import points, words

pytest.importorskip("matplotlib")
SAMPLE = Path(__file__).parents[3] / "sample_checkpoints" / "mlp-2"
ZERO = Missing(Why.ZERO_OR_NOT_FINITE, "the first weights are zero")
NO_STEPS = ImpliedStep(ZERO, ZERO)


def test_the_words_of_a_picture(make_result):
    shown = words(plot.draw(make_result(), "a.pt → b.pt", "svg"))
    for text in (
        "a.pt → b.pt",
        "layers.0.weight moved most: 0.25 × its own norm, turned by 14.1°.",
        "1000 steps; product over the layers Π(1 + moved) − 1: 0.263; outputs differ 31 % of their size; "
        "worst row 80 %",
        "moved: ‖W~ − W‖ / ‖W‖ (no unit)",
        "turned (degrees)",
        "each step: ‖ΔW‖ / ‖W‖ (no unit)",
        "all the same way",
        "to and fro at random",
        "nothing left of the first",
    ):
        assert text in shown, text
    assert [text for text in shown if text.startswith("layers.") and " " not in text] == [
        "layers.0.weight",
        "layers.2.weight",
        "layers.1.weight",
    ]


def test_every_layer_stands_at_its_numbers(make_result):
    moved, turned, steps = plot.draw.__wrapped__(make_result(), "a → b").axes
    assert points(moved, "o") == [(0.25, 0.0), (0.02, -1.0), (0.01, -2.0)]
    assert [x for x, _ in points(turned, "s")] == pytest.approx([math.degrees(0.2455)] * 2 + [math.degrees(1e-8)])
    assert turned.get_xlim() == (0.0, 95.0)
    assert [x for x, _ in points(steps, ">")] == [2.23e-4] * 3
    assert [x for x, _ in points(steps, "D")] == [7.9e-3] * 3


def test_of_many_layers_those_that_moved_most_are_named(make_result, make_layer):
    layers = tuple(make_layer(f"layers.{index}.weight", relative_distance=index / 100.0) for index in range(143))
    figure = plot.draw.__wrapped__(make_result(layers=layers), "a → b")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        *(f"layers.{index}.weight" for index in range(142, 126, -1)),
        "127 more layers",
    ]
    said = [text.get_text() for text in figure.texts]
    assert "Named are the 16 layers that moved most; 127 more are grey." in said
    assert "An arrow at the left edge stands for 0." in said
    assert len(points(figure.axes[0], "o")) == 142, "the layer that did not move is an arrow"
    assert [x for x, _ in points(figure.axes[0], "<")] == [figure.axes[0].get_xlim()[0]]


def test_layers_without_a_distance_are_left_out_and_it_is_said(make_result, make_layer):
    layers = (make_layer("a$x$\n", relative_distance=ZERO, angle=ZERO), make_layer("b", relative_distance=math.inf))
    shown = words(plot.draw(make_result(layers=(*layers, make_layer("c"))), "a → b", "svg"))
    assert "2 layers are not drawn (zero or not finite): a$x$\\n, b." in shown


def test_a_name_without_end_has_a_picture(make_result, make_layer):
    result = make_result(layers=(make_layer("a" * 20_000),))
    assert any(text.endswith("a …") for text in words(plot.draw(result, "a → b", "svg")))


@pytest.mark.parametrize("layers", [0, 1])
def test_without_any_distance_the_picture_says_so(make_result, make_layer, layers):
    result = make_result(layers=(make_layer(relative_distance=ZERO),) * layers, function_distance=ZERO)
    shown = words(plot.draw(result, "a → b", "svg"))
    assert f"There is no distance: {layers} layer{' is' if layers else 's are'} zero or not finite." in shown


def test_steps_and_outputs_that_are_not_known(make_result, make_layer):
    layer = make_layer(implied_step=NO_STEPS, angle=math.pi)
    result = replace(make_result(layers=(layer,), function_distance=ZERO, product=ZERO), first_step=ZERO)
    figure = plot.draw.__wrapped__(result, "a → b")
    assert len(figure.axes) == 2 and points(figure.axes[1], "s") == [(180.0, 0.0)]
    assert figure.axes[1].get_xlim() == (0.0, 180.0)
    assert "outputs not compared" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 5e-324, 1e-200, 1.0, 1.7e308])
def test_whatever_was_measured_can_be_drawn(make_result, make_layer, value):
    layer = make_layer(relative_distance=value, angle=value, implied_step=ImpliedStep(value, value))
    given = dict.fromkeys(("product", "function_distance", "largest_function_distance"), value)
    assert words(plot.draw(make_result(layers=(layer, make_layer("b")), **given), "a → b", "svg"))


def test_the_same_result_gives_the_same_bytes(make_result):
    for format in ("svg", "png"):
        assert plot.draw(make_result(), "a", format) == plot.draw(make_result(), "a", format)


def test_the_command_writes_it_and_names_both_networks(run, tmp_path):
    ends, target = (SAMPLE / "step-000000.safetensors", SAMPLE / "step-000440.safetensors"), tmp_path / "apart.svg"
    code, out, err = run(*ends, "--plot", target, "--json")
    assert code == 0 and f"the plot was written to {target}" in err
    first = json.loads(out)["result"]["layers"][0]["relative_distance"]
    shown = words(target.read_bytes())
    assert f"{first:.3g}" in shown
    assert "mlp-2/step-000000.safetensors, step 0 → step-000440.safetensors, step 440" in shown


@pytest.mark.parametrize("name", ["apart.pdf", "b.safetensors"])
def test_another_extension_is_refused_before_anything_is_read(run, tmp_path, name):
    code, out, err = run(tmp_path / "none.pt", tmp_path / "b.safetensors", "--plot", tmp_path / name)
    assert (code, out) == (2, "") and ".svg .png" in err
