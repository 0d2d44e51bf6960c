from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.norms import render
from fromage_cli.diagnostics.norms.findings import judge
from fromage_cli.diagnostics.norms.growing import claimed_first
from fromage_cli.diagnostics.norms.render import sentences, verdict, when_it_hurts
from fromage_cli.diagnostics.norms.result import ONE_STEP, STEADY, TWO_STEPS, Jump, Overflow, OverflowSteps
from fromage_cli.diagnostics.norms.tables import curve, headline
from fromage_cli.missing import OPTIMIZER_UNKNOWN, STEP_UNKNOWN, Missing, Why
from fromage_cli.optimizers.effective_rate import NO_NORM
from fromage_cli.theory.scale_invariance import Invariance
from tests.diagnostics.pages import compare, drawn


def page(result, *arguments, **style):
    return drawn(render.render, result, *arguments, findings=judge(result), **style)


def advise(result):
    return render.advise(result, judge(result), "fromage-diag norms run --model hf tells which.")


golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize(("name", "width"), [("untested", 100), ("tested", 80), ("tested", 160)])
def test_the_page(make_result, make_layer, name, width):
    result = make_result() if name == "untested" else make_result(layers=zoo(make_layer))
    golden(f"{name}-{width}.txt", page(result, width, verbose=width == 160))


def zoo(make_layer):
    """A layer of each verdict."""
    found = {
        "features.0.weight": Invariance("invariant", "channel", 1e-7, 2e-7, 9e-7, 6, 0),
        "attention.query.weight": Invariance("invariant", "head", 1e-7, 2e-7, 9e-7, 4, 0),
        "layers.1.weight": Invariance("eps-limited", "joint", 2e-4, 3e-3, 0.0121, 1),
        "layers.2.weight": Invariance("approximate", "tensor", 2e-4, 3e-3, 0.004, 1),
        "output.weight": Invariance("none", None, 0.0123, 1.0, 0.5),
        "unused.weight": Invariance(),
    }
    return tuple(
        make_layer(name, kind="Linear", invariance=invariance, growth_per_step=1e-4 * (index + 1))
        for index, (name, invariance) in enumerate(found.items())
    )


def said(result):
    return " ".join(sentences(result, claimed_first(result.layers, judge(result))))


def test_layers_of_which_something_is_claimed_come_first(make_result, make_layer):
    result = make_result(layers=zoo(make_layer))
    order = [layer.name for layer in claimed_first(result.layers, judge(result))]
    assert order[:4] == ["layers.2.weight", "layers.1.weight", "attention.query.weight", "features.0.weight"]
    assert "4 of 6 layers are scale-invariant and grow without end." in said(result)
    assert "layers.2.weight is the fastest of them: its norm doubles every 1733 steps" in said(result)
    lost = make_layer("lost", norms=(1.0, float("nan"), float("nan")), overflow_step=STEADY, growth_per_step=NO_NORM)
    result = make_result(layers=(*zoo(make_layer), lost))
    assert claimed_first(result.layers, judge(result))[0] is lost


def test_whether_growth_is_as_predicted_is_said(make_result, make_layer):
    one = make_layer(invariance=Invariance("invariant", "channel"))
    must = "The norm of convolutions.0.weight doubles every 3466 steps (158 epochs), as LARS without weight decay must."
    assert said(make_result(layers=(one,), steps_per_epoch=22)).endswith(must)
    other = make_layer("w", invariance=Invariance("invariant", "tensor"), predicted_growth=4e-4)
    assert "; theory has 1733 for LARS without weight decay." in said(make_result(layers=(other,)))
    decaying = make_result(layers=(replace(one, predicted_growth=OPTIMIZER_UNKNOWN),), weight_decay=0.1)
    assert "scale-invariant and grows. The norm" in said(decaying) and said(decaying).endswith("at this pace.")


def test_layers_that_are_not_scale_invariant_are_counted(make_result, make_layer):
    felt = make_layer(invariance=Invariance("none"))
    assert said(make_result(layers=(felt,))).endswith("None of 1 layer is scale-invariant.")
    still = make_layer(invariance=Invariance("invariant", "tensor"), overflow_step=STEADY)
    assert said(make_result(layers=(felt, still))).endswith(
        "1 of 2 layers is scale-invariant; none of these grows steadily."
    )
    both = make_result(layers=(replace(felt, overflow_step=STEADY), still))
    assert said(both).endswith("1 of 2 layers is scale-invariant.") and said(both).count("grows") == 1


def test_ascii(make_result, make_layer):
    assert page(make_result(layers=zoo(make_layer)), 160, ascii_only=True, verbose=True).isascii()


def test_the_fastest_come_first_and_hidden_rows_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", growth_per_step=index * 1e-4) for index in range(1, 21))
    text = page(make_result(layers=layers))
    assert text.index("w20  ") < text.index("w19  ") and "15 more, 15 of them growing steadily: --all" in text
    everything = page(make_result(layers=layers), show_all=True)
    assert everything.index("w20  ") < everything.index("w19  ") < everything.index("w1  ")


def test_one_checkpoint(make_result, make_layer):
    alone = make_layer(
        norms=(2.0,), growth_per_step=ONE_STEP, growth_stderr=ONE_STEP, overflow_step=ONE_STEP,
        effective_learning_rate=(OPTIMIZER_UNKNOWN,),
    )  # fmt: skip
    result = make_result(steps=(STEP_UNKNOWN,), layers=(alone,))
    text = page(result)
    assert "No verdict: growth needs a second checkpoint." in text and "doubles" not in text and "hurts" not in text
    assert "give more checkpoints of this run" in advise(result)


def test_what_to_do(make_result, make_layer):
    assert advise(make_result(optimizer=None)).startswith("fromage-diag norms run --model hf tells")
    assert "--optimizer NAME" in advise(make_result(optimizer=None)) and "--optimizer" not in advise(make_result())
    assert "decay the weights" in advise(make_result(layers=zoo(make_layer)))
    felt = make_layer(invariance=Invariance("none"))
    assert advise(make_result(layers=(felt,))).startswith("nothing to do: no scale-invariant layer grows.")
    jump = make_layer(invariance=Invariance("none"), jump=Jump(100, 200, 3.0, 2.5, 9.0))
    assert advise(make_result(layers=(jump,))) == ""


def test_whether_anything_is_wrong_comes_first(make_result, make_layer):
    assert page(make_result()).startswith("No warning: the norms changed no more than in healthy runs.")
    far = make_layer("w", norms=(1.0, 3.0, 9.0))
    lost = make_layer("lost", norms=(1.0, float("nan"), float("nan")), growth_per_step=NO_NORM, overflow_step=STEADY)
    soon = OverflowSteps(Overflow(2500.0, 2100.0), Overflow(4e5, 2e5), Overflow(4e5, 2e5))
    for layers, words in (
        ((far,), "Warning: the norm of w changed more than norms of healthy runs do."),
        ((far, lost), "Warning: the norm of lost is not finite."),
        ((replace(far, overflow_step=soon),), "Warning: w overflows soon if it grows on like this."),
    ):
        result = make_result(layers=layers)
        assert verdict(result, judge(result)) == words


def test_doubling_beyond_the_length_of_the_run_is_no_promise(make_result, make_layer):
    assert said(make_result()).endswith("would double in 3466 steps if this went on, which it does in few runs.")
    fast = make_layer(growth_per_step=1e-3)
    assert said(make_result(layers=(fast,))).endswith("The norm of convolutions.0.weight doubles every 693 steps.")


def test_when_growth_hurts(make_result, make_layer):
    stays = "When it hurts: not soon. The effective rate (how fast a layer turns) stays 0.02 at any norm."
    overflow = " In float16 the squares of the weights overflow at step 24000, the weights at 52000."
    assert when_it_hurts(make_result()) == f"{stays}{overflow}"
    wide = make_result(layers=(make_layer(dtype="float32"),))
    assert when_it_hurts(wide) == stays and when_it_hurts(wide, verbose=True) == f"{stays}{overflow}"
    halved = make_layer(halved_step=3210.4, dtype="bfloat16")
    text = when_it_hurts(make_result(optimizer="sgd", layers=(halved,)))
    assert "at this pace a layer's effective rate (how fast it turns) halves at step 3210. Few runs keep" in text
    assert "matters for scale-invariant layers only. In bfloat16 the squares" in text
    tested = replace(halved, invariance=Invariance("invariant", "tensor"), halved_step=1500.2)
    text = when_it_hurts(make_result(optimizer="sgd", layers=(tested,)))
    assert "had halved at step 1500. In bfloat16" in text
    never = replace(halved, halved_step=1e6)
    assert when_it_hurts(make_result(optimizer="sgd", layers=(never,))).startswith("When it hurts: not soon. In")
    assert when_it_hurts(make_result(layers=(make_layer(overflow_step=STEADY),))) == ""


def test_why_nothing_is_predicted_is_said_under_verbose(make_result, make_layer):
    layers = (make_layer(predicted_growth=Missing(Why.NO_FORMULA, "lamb rescales")),)
    lamb = make_result(optimizer="lamb", layers=layers)
    assert "not known: predicted growth, because lamb rescales" in page(lamb, 300, verbose=True)
    assert "not known" not in page(lamb, 300)
    layers = (make_layer(predicted_growth=OPTIMIZER_UNKNOWN),)
    assert "not known" not in page(make_result(optimizer=None, layers=layers), 300, verbose=True)


def test_two_checkpoints_show_nothing_steady(make_result, make_layer):
    two = make_layer(norms=(1.0, 1.5), growth_stderr=TWO_STEPS, effective_learning_rate=(0.02, 0.02))
    assert "1 of 1 layer grows. The norm" in said(make_result(steps=(0, 1000), layers=(two,)))


def test_no_growth(make_result, make_layer):
    still = make_layer(overflow_step=STEADY, norms=(3.2, 16.0, 22.6))
    changed = "None of 2 layers grows steadily. The norm of convolutions.0.weight changed most: from 3.2 to 22.6."
    assert said(make_result(layers=(make_layer("small", overflow_step=STEADY), still))) == changed
    constant = make_layer(overflow_step=STEADY, norms=(2.0, 2.0, 2.0))
    assert said(make_result(layers=(constant,))) == "None of 1 layer grows steadily."


def test_layers_that_changed_most_come_first_and_frozen_ones_are_marked(make_result, make_layer):
    shrunk = make_layer("shrunk", norms=(4.0, 1.0, 0.1), growth_per_step=-2e-3, overflow_step=STEADY)
    frozen = make_layer("frozen", norms=(1.0, 1.0, 1.0), growth_per_step=0.0, overflow_step=STEADY, unchanged=True)
    noisy = make_layer("noisy", overflow_step=STEADY, growth_stderr=1.0)
    rows = page(make_result(layers=(frozen, noisy, shrunk))).splitlines()
    told = [line.split("  ")[-1].strip() for line in rows if line.startswith(("shr", "noi", "fro"))]
    assert told == ["shrinks", "not steady", "unchanged"]


def test_what_the_norm_made_of_the_effective_rate(make_result, make_layer):
    shrunk = make_layer(norms=(1.0, 0.95, 0.9), effective_rate_fall=0.81)
    text = " ".join(page(make_result(layers=(shrunk,)), 200, verbose=True).split())
    assert "rate ×" in text and "1.23" in text and "above 1 it rose." in text and "0.81" not in text
    same = make_layer(norms=(1.0, 3.0, 7.0), effective_rate_fall=7.0)
    for result in (make_result(), make_result(layers=(same,))):
        assert "rate ×" not in page(result, 200, verbose=True)


def test_a_long_run_is_drawn_from_its_first_checkpoint_to_its_last(make_result, make_layer):
    layer = make_layer(norms=tuple(1.0 + index for index in range(100)), effective_learning_rate=(0.02,) * 100)
    assert "▁▁▂▃▄▅▆▇██" in page(make_result(layers=(layer,), steps=tuple(range(100))), 120)


def test_the_headline_as_a_table(make_result, make_layer):
    result = make_result(layers=zoo(make_layer))
    table = headline(result, judge(result))
    assert table.columns == ("name", "value", "unit")
    found = {name: value for name, value, _ in table.rows}
    assert (found["layers"], found["scale_invariant"], found["scale_invariant_and_growing"]) == (6, 4, 4)
    assert (found["grows_fastest"], found["squares_overflow_float16"]) == ("unused.weight", 24000.0)
    still = headline(make_result(layers=(make_layer(overflow_step=STEADY),)), ())
    assert {name: value for name, value, _ in still.rows}["doubles_in"] is None


def test_names_cannot_act(make_result, make_layer):
    assert "\x1b" not in page(make_result(layers=(make_layer("a\x1b[31m"),)))


def test_the_curve(make_result):
    table = curve(make_result())
    assert table.columns == ("layer", "step", "norm")
    assert table.rows[3:] == tuple(
        ("convolutions.0.weight", step, norm) for step, norm in ((0, 1.0), (1000, 1.5), (2000, 2.25))
    )
