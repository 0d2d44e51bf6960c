from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.sharpness.render import render, summary
from fromage_cli.diagnostics.sharpness.result import HessianEigenvalue, LayerBlock, SharpnessResult
from fromage_cli.missing import LIMIT_REACHED, OPTIMIZER_UNKNOWN, Missing, Why
from tests.diagnostics.pages import compare, drawn

NO_RATIO = Missing(Why.RESTS_ON_MISSING, "there is no ratio")
MakeResult = Callable[..., SharpnessResult]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_many_eigenvalues_are_cut_short(make_result: MakeResult) -> None:
    result = make_result(eigenvalues=tuple(HessianEigenvalue(40.0 - rank, 0.01) for rank in range(12)))
    assert "4 of 12 rows hidden" in page(result)
    assert "hidden" not in page(result, show_all=True)


@pytest.mark.parametrize(
    ("regime", "words"),
    [
        ("lazy", "shrink (lazy)"),
        ("catapult", "comes back (catapult)"),
        ("architecture-dependent", "depends on the architecture"),
        ("divergent", "divergent"),
        ("edge-of-stability", "edge of stability"),
        (NO_RATIO, "above the threshold"),
    ],
)
def test_every_regime_has_its_words(make_result: MakeResult, regime: str | Missing, words: str) -> None:
    assert words in summary(make_result(regime=regime))


def test_what_is_missing_is_said(make_result: MakeResult) -> None:
    result = make_result()
    assert "No eigenvalue" in summary(replace(result, eigenvalues=()))
    unknown = replace(
        result,
        optimizer=None,
        threshold=OPTIMIZER_UNKNOWN,
        ratio=OPTIMIZER_UNKNOWN,
        regime=NO_RATIO,
        quadratic=OPTIMIZER_UNKNOWN,
    )
    assert "no threshold to hold it against: the optimizer is not known" in summary(unknown)
    assert "not known: quadratic model, ratio, because the optimizer is not known\n" in page(unknown)
    assert "regime" not in page(unknown)
    beyond = replace(result, regime=Missing(Why.NO_FORMULA, "the bands were measured at initialisation"))
    assert "not known: regime, because the bands were measured at initialisation\n" in page(beyond)
    adam = replace(result, optimizer="adam", momentum=None, ratio=NO_RATIO, regime=NO_RATIO)
    assert "is stable up to a preconditioned 38; there is nothing" in summary(adam)


def test_the_page_in_ascii_has_every_number(make_result: MakeResult) -> None:
    text = " ".join(page(make_result(), ascii_only=True).split())
    assert all(
        value in text for value in ("46.3", "44.1", "3.96 +- 0.4", "41 +- 3.9", "38", "1.22", "0.42 x this rate")
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"outcome": "spikes", "losses": (0.5, 0.9, 2.4, 1.1, 0.4)},
            "spikes to 2.4 and is back below its start after 4 steps",
        ),
        ({"outcome": "falls"}, "falls from 0.5 to 0.4 in 4 steps"),
        ({"outcome": "rises", "losses": (0.5, 2.4)}, "rises to 2.4 and is not back after 1 step: "),
        ({"outcome": "diverges", "losses": (0.5, float("inf"))}, "grows without bound within 1 step: "),
        ({"outcome": NO_RATIO, "losses": (), "spikes": NO_RATIO}, "holds up to a rate of 0.042, 0.42 × this rate."),
        ({"radius": Missing(Why.ABOVE_GRID, ""), "radius_relation": "above-grid"}, "holds at every rate looked at"),
        ({"radius": Missing(Why.BELOW_GRID, ""), "radius_relation": "below-grid"}, "holds at no rate looked at"),
    ],
)
def test_the_quadratic_model_in_words(make_result: MakeResult, changes: dict[str, object], words: str) -> None:
    result = make_result()
    assert not isinstance(result.quadratic, Missing)
    shown = page(replace(result, quadratic=replace(result.quadratic, **changes)), 200)
    assert words in " ".join(shown.split())


def test_blocks_are_shown_the_sharpest_first(make_result: MakeResult) -> None:
    layers = tuple(LayerBlock(f"layers.{n}.weight", "Linear", (4, 3), 12, float(n), 0.01) for n in range(11))
    layers += (LayerBlock("late.weight", "Linear", (4, 3), 12, LIMIT_REACHED, LIMIT_REACHED),)
    text = page(make_result(layers=layers))
    assert text.index("layers.10.weight") < text.index("layers.9.weight")
    assert "late.weight" not in text and "4 of 12 rows hidden" in text
    assert "late.weight" in page(make_result(layers=layers), show_all=True)
