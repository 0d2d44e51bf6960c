from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.breakdown.derived import NOWHERE, OTHER_GRADIENT, TOO_SMALL
from fromage_cli.diagnostics.breakdown.render import curve, located, render, summary
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown, OutOfLine, SkippedTensor
from tests.diagnostics.pages import compare, drawn

MakeLayer = Callable[..., LayerBreakdown]
MakeResult = Callable[..., BreakdownResult]
page = partial(drawn, render)
golden = partial(compare, Path(__file__).parent / "golden")
ABOVE = NOWHERE["above-grid"]


@pytest.mark.parametrize("width", [80, 160])
def test_the_page(make_result: MakeResult, width: int) -> None:
    golden(f"page-{width}.txt", page(make_result(), width))


def test_the_page_in_ascii(make_result: MakeResult) -> None:
    text = page(make_result(), ascii_only=True)
    assert "trust eta" in text


def test_offenders_come_first_and_hidden_rows_are_counted(make_result: MakeResult, make_layer: MakeLayer) -> None:
    layers = tuple(make_layer(f"layers.{index}.weight", trust_eta=0.1 - index * 0.001) for index in range(12))
    layers += (make_layer("ascends", trust_eta=NOWHERE["uncertifiable"], trust_relation="uncertifiable"),)
    text = page(make_result(layers=layers))
    lines = [line for line in text.splitlines() if "weight" in line or "ascends" in line]
    assert "ascends" in text.split("layers.11.weight")[0]
    assert "5 of 13 rows hidden" in text
    assert "layers.0.weight" not in "".join(lines[1:])
    assert "layers.0.weight" in page(make_result(layers=layers), show_all=True)


def test_every_relation_has_its_sentence(make_result: MakeResult) -> None:
    result = make_result()
    assert "gives descent for steps that move every matrix by up to η ≈ 0.061" in summary(result)
    assert "The first to give way is layers.0.weight, at η ≈ 0.05." in summary(result)
    assert "below the first point" in summary(
        replace(result, trust_eta=NOWHERE["below-grid"], trust_relation="below-grid")
    )
    above = {"trust_eta": ABOVE, "trust_relation": "above-grid", "aggregate_trust_eta": ABOVE}
    assert "up to η = 0.15, the last point" in summary(replace(result, **above, aggregate_trust_relation="above-grid"))
    assert "does not descend in" in summary(
        replace(result, trust_eta=NOWHERE["uncertifiable"], trust_relation="uncertifiable")
    )
    below = replace(result, aggregate_trust_eta=NOWHERE["below-grid"], aggregate_trust_relation="below-grid")
    assert "Not even at η = 0.01" in summary(below)
    names = tuple(layer.name for layer in result.layers)
    whole = summary(replace(result, without_size=names))
    assert "for steps that move the network as a whole by up to η ≈ 0.061" in whole and "Lemma 2" not in whole
    assert "move the network as a whole" in summary(replace(result, without_size=names, direction="sgd"))
    assert summary(replace(result, decay_left_out=0.3)).endswith(" Weight decay (0.3) is left out of this step.")
    assert "No point" in summary(replace(result, etas=()))
    assert summary(replace(result, complete=False)).startswith("Stopped early, after 4 points.")
    overflow = {"aggregate_trust_eta_upper": 0.15, "first_increase_eta_upper": 0.15, "argmin_loss_eta_upper": 0.06}
    beside = summary(replace(result, trust_eta_upper=0.06, **overflow))
    assert "gives descent for steps that move every matrix by up to η ≈ 0.061" in beside
    assert "way is layers.0.weight, between η = 0.05 and 0.06." in beside
    assert "least between η = 0.02 and 0.06 and no longer finite between η = 0.041 and 0.15." in beside
    for refused in (OTHER_GRADIENT, TOO_SMALL):
        nothing = {"aggregate_trust_eta": refused, "aggregate_trust_relation": "uncertifiable"}
        assert summary(replace(result, **nothing)).startswith("Nothing is ")
    assert "learning rates up to 0.122" in summary(replace(result, direction="sgd", step_scale=2.0))
    assert "up to η ≈ 0.061 of the way" in summary(replace(result, direction="to:other.pt"))


def test_a_network_without_gradients_is_given_no_limit(make_result: MakeResult, make_layer: MakeLayer) -> None:
    bias = make_layer("head.bias", shape=(10,))
    still = tuple(SkippedTensor(f"fc{index}.weight", "zero gradient") for index in (1, 2))
    told = summary(make_result(layers=(bias,), skipped=still))
    assert told.startswith(
        "Nothing has a gradient but head.bias: 2 tensors cannot learn on this batch. "
        "Dead units, or a head of zeros, pass none on. Along this line"
    )
    assert "Lemma 1" not in told
    for other in (make_result(skipped=still), make_result(layers=(bias,), skipped=(SkippedTensor("a", "excluded"),))):
        assert "Nothing has a gradient" not in summary(other)


def test_places_outside_the_grid_are_bounded_by_its_ends() -> None:
    assert located(0.0123, "crossing", (0.1, 1.0)) == "0.0123"
    assert located(0.1, "crossing", (0.1, 1.0), 0.2) == "0.1 to 0.2"
    assert located(NOWHERE["below-grid"], "below-grid", (0.1, 1.0)) == "< 0.1"
    assert located(NOWHERE["below-grid"], "below-grid", (0.1, 1.0), 0.3) == "< 0.3"
    assert located(TOO_SMALL, "uncertifiable", (0.1, 1.0)) == "—"
    assert located(NOWHERE["above-grid"], "above-grid", (0.1, 1.0)) == "> 1"
    assert located(NOWHERE["uncertifiable"], "uncertifiable", (0.1, 1.0)) == "none"
    assert located(NOWHERE["unavailable"], "unavailable", (0.1, 1.0)) == "—"


def test_names_with_markup_and_control_sequences_do_not_act(make_result: MakeResult, make_layer: MakeLayer) -> None:
    hostile = make_layer("[red]a\x1b[31m[/red]")
    text = page(make_result(layers=(hostile,), limiting_layer=hostile.name))
    assert "[red]a\\x1b[31m[/red]" in text
    assert "\x1b" not in text


def test_the_curve_has_a_row_for_each_layer_and_eta(make_result: MakeResult) -> None:
    table = curve(make_result())
    assert table.columns == ("layer", "eta", "breakdown", "path_breakdown", "predicted")
    assert len(table.rows) == 8
    assert table.rows[1] == ("layers.0.weight", 0.025, 0.2, 0.2, 0.0201)


def test_a_layer_out_of_line_is_shown_among_the_first(make_result: MakeResult, make_layer: MakeLayer) -> None:
    layers = tuple(make_layer(f"layers.{index}.weight", trust_eta=0.01 * (index + 1)) for index in range(12))
    text = page(make_result(layers=layers, out_of_line=(OutOfLine("layers.10.weight", "weights", 9.7),)))
    assert "layers.10.weight" in text and "layers.9.weight" not in text and "3 of 12 rows hidden" in text
