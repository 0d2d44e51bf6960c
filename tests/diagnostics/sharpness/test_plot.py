"""The picture: what stands in it, that it is the same for the same result, and what is refused before any work."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from fromage_cli.diagnostics.sharpness.plot import draw
from fromage_cli.diagnostics.sharpness.result import SharpnessResult
from fromage_cli.missing import Missing, Why
from tests.diagnostics.pictures import points, words

NOTHING = Missing(Why.NOT_ASKED, "no step was asked for")
Make = Callable[..., SharpnessResult]


def test_it_names_the_curves_and_every_mark(make_result: Make) -> None:
    shown = words(draw(make_result(), "mlp/step-5.pt, step 5", "svg"))
    for text in (
        "mlp/step-5.pt, step 5",
        "sharpness 46.3; SGD at 0.1; ratio to what it tolerates 1.22",
        "learning rate of the next step",
        "the network",
        "its quadratic model",
        "model accurate to: 0.042",
        "your rate: 0.1",
        "loss rises: 0.505",
        "step of training in the quadratic model",
        "the loss falls",
        "start: 0.5",
    ):
        assert text in shown, text


@pytest.mark.parametrize("format", ["svg", "png"])
def test_the_same_result_gives_the_same_bytes(make_result: Make, format: str) -> None:
    assert draw(make_result(), "mlp", format) == draw(make_result(), "mlp", format)
    assert draw(make_result(), "mlp", format) != draw(make_result(loss=0.6), "mlp", format)


def test_rates_are_told_apart_without_colour(make_result: Make) -> None:
    left = draw.__wrapped__(make_result(), "mlp").axes[0]  # type: ignore[attr-defined]
    assert points(left, "D") == [(0.042, 0.0)]
    assert points(left, "v") == [(0.1, 0.0)]
    assert [x for x, _ in points(left, "^")] == [pytest.approx(0.505, rel=1e-2)]


def test_what_was_not_measured_is_said(make_result: Make) -> None:
    result = make_result()
    assert not isinstance(result.quadratic, Missing)
    assert "no quadratic model was measured" in words(draw(replace(result, quadratic=NOTHING), "mlp", "svg"))
    still = replace(result.quadratic, losses=(), spikes=NOTHING, outcome=NOTHING, radius=NOTHING)
    shown = words(draw(replace(result, quadratic=still, critical_sharpness=NOTHING), "mlp", "svg"))
    assert "no training was simulated" in shown
    assert not any("accurate to" in line or "loss rises" in line for line in shown)
    unknown = replace(result, eigenvalues=(), learning_rate=NOTHING, ratio=NOTHING)
    assert words(draw(unknown, "<b>$x$\x1b", "svg"))[0]


@pytest.mark.parametrize("losses", [(0.5, math.inf), (0.5, math.nan, 1e300), (0.0, 0.0), (1e-9, 1e9, 3.0)])
def test_any_course_can_be_drawn(make_result: Make, losses: tuple[float, ...]) -> None:
    result = make_result()
    assert not isinstance(result.quadratic, Missing)
    model = replace(result.quadratic, losses=losses, outcome="diverges", line_losses=(0.4, math.inf, math.nan, 1e300))
    assert words(draw(replace(result, quadratic=model), "mlp", "svg"))
