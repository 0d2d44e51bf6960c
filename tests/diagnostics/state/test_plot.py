import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fromage_cli.diagnostics.state import plot
from fromage_cli.diagnostics.state.result import Continuation, FileState, LayerState, Lost, Violations
from fromage_cli.missing import STEP_UNKNOWN, Missing, Why
from tests.diagnostics.pictures import points, words

pytest.importorskip("matplotlib")
SAMPLE = Path(__file__).parents[3] / "sample_checkpoints" / "char-gpt"
UNKNOWN = Missing(Why.NO_STATE, "the file holds no moments of it")
BOUNDS = ("remembered", "second_moments", "first_moments", "weights", "weights_far")


def panels(result):
    return plot.draw.__wrapped__(result, "run").axes


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.fixture
def make_run(make_state):
    """Three checkpoints whose update falls."""

    def make(*updates, **changes):
        files = tuple(
            FileState(f"a/step-{step}.pt", step, float(step), 1e-3, update, 0.2, UNKNOWN, 0)
            for step, update in zip((20, 30, 40), updates or (0.04, 0.02, 0.01), strict=True)
        )
        return replace(make_state(**changes), files=files)

    return make


def test_the_words_of_a_picture(make_run):
    shown = words(plot.draw(make_run(), "run/step-40.pt, step 40", "svg"))
    for text in (
        "run/step-40.pt, step 40",
        "No problem found: the optimizer's moments are consistent.",
        "relative update: ‖ηu‖ / ‖W‖ (no unit)",
        "decay's share of the step (%)",
        "whole network",
        "block.1.weight",
        "training step",
        "relative update (no unit), last 0.01",
        "learning rate, last 0.001",
    ):
        assert text in shown, text
    line = " ".join(shown)
    assert "AdamW at 0.001; 40 updates; relative update of the whole network 0.011" in line
    assert "weight decay: 10000 steps to replace most weights at this rate; 90 % of the first weights are left" in line
    assert not any("rounding" in text for text in shown), "nothing is known of it"


def test_every_tensor_stands_at_its_numbers(make_state):
    updates, shares = panels(make_state(relative_update=0.002, decay_share=0.5))
    assert labels(updates) == ["block.2.bias", "block.0.weight", "block.2.weight", "block.1.weight"]
    assert points(updates, "o") == [(0.4, 0.0), (0.01, -1.0), (0.01, -2.0), (0.002, -3.0)]
    assert points(shares, "s") == [(5.0, 0.0), (5.0, -1.0), (5.0, -2.0), (50.0, -3.0)]
    assert list(updates.lines[-1].get_xdata()) == [0.011, 0.011]


def test_entries_that_rounding_loses_have_a_panel(make_state):
    *_, lost = panels(make_state(lost=Lost(0.4, 0.3, 1e-4, 0.1)))
    assert points(lost, "D") == [(40.0, -2.0)] and lost.get_xlabel() == "entries lost to rounding (%)"


def test_impossible_moments_are_marked(make_state):
    result = make_state(violations=Violations(3, 0, 0, False))
    assert points(panels(result)[0], "X") == [(0.01, -1.0)], "they come first among equals"
    shown = words(plot.draw(result, "run", "svg"))
    assert "moments that no gradients can have made" in shown
    assert any("block.1.weight: 3 entries of the moments" in text for text in shown)


def test_of_many_tensors_those_unlike_the_network_are_named(make_state):
    result = make_state()
    layers = tuple(replace(result.layers[0], name=f"b.{place}", relative_update=0.011) for place in range(140))
    far = [replace(layers[0], name=f"far.{place}", relative_update=10.0**-place) for place in range(4, 20)]
    many = replace(result, layers=(*layers, *far))
    updates, shares = panels(many)
    assert labels(updates) == [*(f"far.{place}" for place in range(4, 20)), "140 more layers"]
    assert len(points(updates, "o")) == 156 and labels(shares) == [""] * 17
    said = "Named are the 16 layers most unlike the whole network, matrices first; 140 more are grey."
    assert said in words(plot.draw(many, "run", "svg"))


def test_the_run_so_far_has_a_panel(make_run):
    *_, course = panels(make_run())
    assert points(course, "o") == [(20.0, 0.04), (30.0, 0.02), (40.0, 0.01)]
    assert points(course, "s") == [(20.0, 1e-3), (30.0, 1e-3), (40.0, 1e-3)]
    assert course.lines[0].get_linestyle() != course.lines[1].get_linestyle(), "told apart without colour"


def test_checkpoints_without_a_step_or_an_update_are_left_out_and_it_is_said(make_run):
    run = make_run(UNKNOWN, 0.02, 0.01)
    assert points(panels(run)[-1], "o") == [(30.0, 0.02), (40.0, 0.01)]
    said = "1 checkpoint is not drawn (its step or its update is not known): step-20.pt."
    assert said in words(plot.draw(run, "run", "svg"))
    lost = replace(run, files=tuple(replace(one, step=STEP_UNKNOWN) for one in run.files))
    assert len(panels(lost)) == 2


def test_a_file_that_does_not_follow_is_marked(make_run):
    found = dict.fromkeys((field.name for field in fields(Continuation)), ()) | dict.fromkeys(BOUNDS, UNKNOWN)
    found |= {"first": "a/step-20.pt", "last": "a/step-30.pt", "steps": 10, "updates": 0, "restarted": True}
    run = replace(make_run(), continuity=(Continuation(**found),))
    assert "does not follow from the file before" in words(plot.draw(run, "run", "svg"))
    assert [30, 30] in [list(line.get_xdata()) for line in panels(run)[-1].lines]


def test_updates_of_zero_are_arrows(make_run):
    run = make_run(0.0, 0.0, 0.0)
    still = replace(run, layers=tuple(replace(layer, relative_update=0.0) for layer in run.layers))
    axes = panels(still)[0]
    assert points(axes, "<") == [(axes.get_xlim()[0], -float(place)) for place in range(4)]
    shown = words(plot.draw(still, "run", "svg"))
    assert "An arrow at the left edge stands for 0." in shown and "learning rate, last 0.001" in shown
    ended = replace(still, files=tuple(replace(one, learning_rate=0.0) for one in still.files))
    assert "The last update is 0 at every checkpoint." in words(plot.draw(ended, "run", "svg"))


def test_tensors_and_files_are_not_compared_with_each_other(make_run, monkeypatch):
    monkeypatch.setattr(LayerState, "__eq__", None)
    monkeypatch.setattr(FileState, "__eq__", None)
    panels(make_run(UNKNOWN, 0.02, 0.01))


def test_without_any_update_the_picture_says_so(make_state):
    result = make_state()
    unknown = tuple(replace(layer, relative_update=UNKNOWN, update_rms=UNKNOWN) for layer in result.layers)
    for layers in (unknown, ()):
        shown = words(plot.draw(replace(result, layers=layers), "run", "svg"))
        assert "No layer's update can be held against its weights." in shown
    hostile = replace(unknown[0], name="a$x$\n")
    shown = words(plot.draw(replace(result, layers=(hostile, *result.layers[1:])), "run", "svg"))
    assert "1 tensor is not drawn (its update is not known): a$x$\\n." in shown


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 5e-324, 1e-200, 1.0, 1.7e308])
def test_whatever_was_measured_can_be_drawn(make_run, value):
    run = make_run(value, value, value, relative_update=value, decay_share=value, lost=Lost(value, value, value, value))
    run = replace(run, totals=replace(run.totals, relative_update=value))
    for format in ("svg", "png"):
        assert plot.draw(run, "run", format) == plot.draw(run, "run", format)


def test_the_command_writes_it_and_names_the_last_checkpoint(run, tmp_path):
    target = tmp_path / "state.svg"
    code, _, err = run(SAMPLE, "--plot", target)
    assert code == 0 and f"the plot was written to {target}" in err
    assert "char-gpt/step-000860.pt, step 860" in words(target.read_bytes())
    assert run(SAMPLE, "--plot", target)[0] == 3, "an existing file is left alone"


def test_another_extension_is_refused_before_anything_is_read(run, tmp_path):
    code, out, err = run(tmp_path / "none", "--plot", tmp_path / "state.pdf")
    assert (code, out) == (2, "") and ".svg .png" in err
