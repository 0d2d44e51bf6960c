import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fromage_cli.diagnostics.norms import plot
from fromage_cli.diagnostics.norms.result import STEADY, LayerNorms, Overflow, OverflowSteps
from fromage_cli.missing import STEP_UNKNOWN
from fromage_cli.theory.scale_invariance import Invariance
from tests.diagnostics.pictures import words

pytest.importorskip("matplotlib")
SAMPLE = Path(__file__).parents[3] / "sample_checkpoints" / "convnet-lars"
FAR = OverflowSteps(Overflow(5e4, 2.4e4), Overflow(4e5, 2e5), Overflow(4e5, 2e5))
NEAR = OverflowSteps(Overflow(5e4, 3456.7), Overflow(4e5, 2e5), Overflow(4e5, 2e5))


def panel(result):
    """The only panel of the picture."""
    (axes,) = plot.draw.__wrapped__(result, "run").axes
    return axes


def told(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_words_of_a_picture(make_result):
    shown = words(plot.draw(make_result(), "run/a.pt → c.pt", "svg"))
    for text in (
        "run/a.pt → c.pt",
        "No warning: the norms changed no more than in healthy runs.",
        "training step",
        "‖W‖ over that of the first checkpoint (no unit)",
        "convolutions.0.weight",
        "2.25 ×, doubles in 3466 steps",
        "output.weight",
        "1 ×",
    ):
        assert text in shown, text
    assert "overflow at step 24000, the weights at 52000." in " ".join(shown)


def test_each_curve_is_the_norm_over_the_first_one(make_result):
    grown, still = panel(make_result()).lines[1:3]
    assert list(grown.get_xdata()) == [0, 1000, 2000] and list(grown.get_ydata()) == [1.0, 1.5, 2.25]
    assert list(still.get_ydata()) == [1.0, 1.0, 1.0]
    assert grown.get_marker() != still.get_marker(), "told apart without colour"


def test_scale_invariant_layers_are_told_apart_by_their_line(make_result, make_layer):
    layers = [make_layer(verdict, invariance=Invariance(verdict)) for verdict in ("invariant", "none", "untested")]
    axes = panel(make_result(layers=tuple(layers)))
    styles = {text.split("\n")[0]: line.get_linestyle() for text, line in zip(told(axes), axes.lines[1:], strict=False)}
    assert styles["invariant"] == "-" and styles["none"] == styles["untested"] == "--"
    assert told(axes)[-3:] == [
        "solid: scale-invariant",
        "dashed: its size changes the outputs",
        "dotted: not tested",
    ]
    untested = panel(make_result())
    assert {line.get_linestyle() for line in untested.lines[1:]} == {"-"} and len(told(untested)) == 2


@pytest.mark.parametrize(("found", "place"), [(FAR, None), (NEAR, 3456.7)])
def test_an_overflow_that_is_near_is_a_line(make_result, make_layer, found, place):
    axes = panel(make_result(layers=(make_layer(overflow_step=found),)))
    lines = [text for text in told(axes) if "overflow" in text]
    assert lines == ([] if place is None else ["squares overflow float16: step 3460"])
    assert (axes.get_xlim()[1] > 3000.0) == (place is not None)
    assert place is None or any(list(line.get_xdata()) == [place, place] for line in axes.lines)


def test_an_effective_rate_that_has_halved_is_a_line(make_result, make_layer):
    axes = panel(make_result(layers=(make_layer(halved_step=1500.0),)))
    assert "an effective rate has halved: step 1500" in told(axes)
    scale_dependent = make_layer(halved_step=1500.0, invariance=Invariance("none"))
    assert not any("halved" in text for text in told(panel(make_result(layers=(scale_dependent,)))))


def test_of_many_layers_those_that_grow_or_changed_most_are_named(make_result, make_layer):
    def changed(index):
        norms = (1.0, 1.0, 1.0 + index / 1000.0)
        return make_layer(f"layers.{index}", norms=norms, growth_per_step=1e-9, overflow_step=STEADY)

    figure = plot.draw.__wrapped__(make_result(layers=tuple(map(changed, range(143)))), "run")
    named = [text.split("\n")[0] for text in told(figure.axes[0])]
    assert named == [*(f"layers.{index}" for index in range(142, 134, -1)), "135 more layers"]
    said = "Named are 8 layers: those with warnings, then those that grow or changed most. 135 more are grey."
    assert said in [text.get_text() for text in figure.texts]


def test_norms_that_cannot_be_drawn_are_left_out_and_it_is_said(make_result, make_layer):
    layers = (make_layer("a$x$\n", norms=(0.0, 1.0, 1.0)), make_layer("b", norms=(1.0, math.inf, 2.0)))
    shown = words(plot.draw(make_result(layers=layers), "run", "svg"))
    assert "1 layer is not drawn (the first norm or its step is no number): a$x$\\n." in shown
    axes = panel(make_result(layers=layers))
    assert list(axes.lines[1].get_xdata()) == [0, 2000]


def test_a_layer_that_is_larger_than_its_siblings_from_the_start_stands_first(make_result, make_layer):
    layers = [make_layer(f"blocks.{place}.weight", shape=(6, 54), norms=(1.0, 1.1, 1.2)) for place in range(8)]
    layers[5] = replace(layers[5], norms=(9.0, 9.0, 9.0), first_norm=9.0, last_norm=9.0, first_to_last=1.0)
    first, second, *_ = told(panel(make_result(layers=tuple(layers))))
    assert first.startswith("blocks.5.weight\n1 ×") and first.endswith("weights 7.5 × its siblings'")
    assert "siblings" not in second


def test_layers_are_not_compared_with_each_other(make_result, make_layer, monkeypatch):
    monkeypatch.setattr(LayerNorms, "__eq__", None)
    panel(make_result(layers=(make_layer("a", norms=(0.0, 1.0, 1.0)), make_layer("b"), make_layer("c"))))


def test_what_cannot_be_drawn_is_said(make_result, make_layer):
    alone = make_result(steps=(0,), layers=(make_layer(norms=(1.0,)),))
    assert "There is one checkpoint: growth needs a second." in words(plot.draw(alone, "run", "svg"))
    for nothing in ({"layers": ()}, {"steps": (STEP_UNKNOWN,) * 3}):
        assert "No layer has norms that can be drawn." in words(plot.draw(make_result(**nothing), "run", "svg"))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 5e-324, 1e-200, 1.0, 1.7e308])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_whatever_was_measured_can_be_drawn(make_result, make_layer, value, place):
    norms = [1.0, 1.0, 1.0]
    norms[place] = value
    result = make_result(layers=(make_layer(norms=tuple(norms)), make_layer("b", norms=(value,) * 3)))
    for format in ("svg", "png"):
        assert plot.draw(result, "run", format) == plot.draw(replace(result), "run", format)


def test_the_command_writes_it_and_names_the_run(run, tmp_path):
    target = tmp_path / "norms.svg"
    code, _, _ = run(SAMPLE, "--plot", target, "-q")
    assert code == 0 and target.exists()
    shown = words(target.read_bytes())
    assert "convnet-lars/step-000000.safetensors, step 0 → step-002970.safetensors, step 2970" in shown
    assert any(re.fullmatch(r"5.92 ×", text) for text in shown)
    assert run(SAMPLE, "--plot", target)[0] == 3, "an existing file is left alone"


def test_another_extension_is_refused_before_anything_is_read(run, tmp_path):
    code, out, err = run(tmp_path / "none", "--plot", tmp_path / "norms.pdf")
    assert (code, out) == (2, "") and ".svg .png" in err
