from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.norms.render import curve, render, summary
from fromage_cli.diagnostics.norms.result import ONE_STEP, STEADY, TWO_STEPS
from fromage_cli.missing import OPTIMIZER_UNKNOWN, STEP_UNKNOWN, Missing, Why
from fromage_cli.theory.scale_invariance import Invariance
from tests.diagnostics.pages import compare, drawn

page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize(("name", "width"), [("untested", 100), ("tested", 80), ("tested", 160)])
def test_the_page(make_result, make_layer, name, width):
    result = make_result() if name == "untested" else make_result(layers=zoo(make_layer))
    text = page(result, width)
    golden(f"{name}-{width}.txt", text)


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


def test_invariant_layers_that_grow_come_first(make_result, make_layer):
    text = page(make_result(layers=zoo(make_layer)))
    assert text.rindex("layers.2.weight") < text.rindex("features.0.weight") < text.rindex("unused.weight")
    assert "4 of 5 tested layers are scale-invariant; 4 of them grow" in summary(make_result(layers=zoo(make_layer)))
    felt = make_layer(invariance=Invariance("none"))
    assert "None of 1 tested layers is scale-invariant" in summary(make_result(layers=(felt,)))


def test_ascii(make_result, make_layer):
    assert page(make_result(layers=zoo(make_layer)), 160, ascii_only=True).isascii()


def test_the_fastest_come_first_and_hidden_rows_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", growth_per_step=index * 1e-4) for index in range(20))
    text = page(make_result(layers=layers))
    assert text.index("w19") < text.index("w18") and "8 of 20 rows hidden" in text
    assert "w0" in page(make_result(layers=layers), show_all=True)


def test_one_checkpoint(make_result, make_layer):
    alone = make_layer(
        norms=(2.0,), growth_per_step=ONE_STEP, growth_stderr=ONE_STEP, effective_learning_rate=(OPTIMIZER_UNKNOWN,)
    )
    text = page(make_result(steps=(STEP_UNKNOWN,), layers=(alone,)))
    assert "growth needs a second checkpoint" in text and "effective" not in text and "±" not in text


def test_an_optimizer_that_is_not_known(make_result):
    assert "--optimizer NAME" in page(make_result(optimizer=None), 300)
    assert "--optimizer NAME" not in page(make_result(), 300)


def test_why_there_is_no_law(make_result, make_layer):
    layers = (make_layer(predicted_growth=Missing(Why.NO_FORMULA, "lamb rescales")),)
    assert "not known: law, because lamb rescales" in page(make_result(optimizer="lamb", layers=layers), 300)
    layers = (make_layer(predicted_growth=OPTIMIZER_UNKNOWN),)
    assert "not known: law" not in page(make_result(optimizer=None, layers=layers), 300)


def test_two_checkpoints_show_nothing_steady(make_result, make_layer):
    two = make_layer(norms=(1.0, 1.5), growth_stderr=TWO_STEPS, effective_learning_rate=(0.02, 0.02))
    assert "the norms of 1 of 1 layer grow, fastest" in summary(make_result(steps=(0, 1000), layers=(two,)))


def test_no_growth(make_result, make_layer):
    still = make_layer(overflow_step=STEADY, norms=(3.2, 16.0, 22.6))
    said = summary(make_result(layers=(make_layer("small", overflow_step=STEADY), still)))
    changed = "the norm of convolutions.0.weight changed most: from 3.2 to 22.6. No norm grows steadily, of 2 layers."
    assert said == f"From step 0 to 2000 (3 checkpoints) {changed}"
    constant = make_layer(overflow_step=STEADY, norms=(2.0, 2.0, 2.0))
    assert summary(make_result(layers=(constant,))).endswith("no norm grows steadily, of 1 layer.")


def test_layers_that_changed_most_come_first_and_frozen_ones_are_marked(make_result, make_layer):
    shrunk = make_layer("shrunk", norms=(4.0, 1.0, 0.1), growth_per_step=-2e-3, overflow_step=STEADY)
    frozen = make_layer("frozen", norms=(1.0, 1.0, 1.0), growth_per_step=0.0, overflow_step=STEADY, unchanged=True)
    result = make_result(layers=(frozen, make_layer("grown", overflow_step=STEADY), shrunk))
    text = page(result, 200)
    assert text.rindex("shrunk") < text.rindex("grown") < text.rindex("frozen")
    assert (
        "unchanged"
        in text.splitlines()[-1 - [line.startswith(" frozen") for line in text.splitlines()][::-1].index(True)]
    )


def test_what_the_norm_made_of_the_effective_rate(make_result, make_layer):
    shrunk = make_layer(norms=(1.0, 0.95, 0.9), effective_rate_fall=0.81)
    text = " ".join(page(make_result(layers=(shrunk,)), 200).split())
    assert "rate ×" in text and "1.23" in text and "above 1 it rose." in text and "0.81" not in text
    same = make_layer(norms=(1.0, 3.0, 7.0), effective_rate_fall=7.0)
    for result in (make_result(), make_result(layers=(same,))):
        assert "rate ×" not in page(result, 200)


def test_names_cannot_act(make_result, make_layer):
    assert "\x1b" not in page(make_result(layers=(make_layer("a\x1b[31m"),)))


def test_the_curve(make_result):
    table = curve(make_result())
    assert table.columns == ("layer", "step", "norm")
    assert table.rows[3:] == tuple(
        ("convolutions.0.weight", step, norm) for step, norm in ((0, 1.0), (1000, 1.5), (2000, 2.25))
    )
