from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fromage_cli.diagnostics.breakdown.derived import NOWHERE, OTHER_GRADIENT, TOO_SMALL
from fromage_cli.diagnostics.breakdown.render import advise, located, render, sentences
from fromage_cli.diagnostics.breakdown.result import BreakdownResult, LayerBreakdown, SkippedTensor
from fromage_cli.diagnostics.breakdown.tables import curve, headline
from fromage_cli.theory.siblings import OutOfLine
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
    assert "sure to eta" in text and "||DeltaW||/||W||" in text


def test_offenders_come_first_and_hidden_rows_are_counted(make_result: MakeResult, make_layer: MakeLayer) -> None:
    layers = tuple(make_layer(f"layers.{index}.weight", trust_eta=0.1 - index * 0.001) for index in range(12))
    layers += (make_layer("ascends", trust_eta=NOWHERE["uncertifiable"], trust_relation="uncertifiable"),)
    text = page(make_result(layers=layers))
    lines = [line for line in text.splitlines() if "weight" in line or "ascends" in line]
    assert "ascends" in text.split("layers.11.weight")[0]
    assert "8 more, sure to 0.093 or further: --all" in text
    assert "layers.0.weight" not in "".join(lines[1:])
    assert "layers.0.weight" in page(make_result(layers=layers), show_all=True)


def test_every_relation_has_its_words(make_result: MakeResult) -> None:
    result = make_result()
    text = page(result)
    assert "How far one step may move each matrix, as η = ‖ΔW‖/‖W‖ (4 steps tried):" in text
    assert "Sure in every layer  0.05   layers.0.weight fails first" in text
    assert "Sure as a whole      0.061  the loss is sure to fall" in text
    assert "Loss rises           0.041  one such step raises the loss" in text
    below = page(replace(result, trust_eta=NOWHERE["below-grid"], trust_relation="below-grid"), 160)
    assert "layers.0.weight fails below the smallest step tried" in below
    above = {"trust_eta": ABOVE, "trust_relation": "above-grid", "aggregate_trust_eta": ABOVE}
    far = page(replace(result, **above, aggregate_trust_relation="above-grid"), 160)
    assert "> 0.15" in far and "every layer helps, as far as looked" in far
    assert "in layers.0.weight the step points uphill" in page(
        replace(result, trust_eta=NOWHERE["uncertifiable"], trust_relation="uncertifiable"), 160
    )
    nowhere = replace(result, aggregate_trust_eta=NOWHERE["below-grid"], aggregate_trust_relation="below-grid")
    assert "not even the smallest step tried is sure to lower the loss" in page(nowhere, 160)
    for refused, words in ((OTHER_GRADIENT, "does not change as its gradient"), (TOO_SMALL, "cannot make steps so")):
        assert words in page(
            replace(result, aggregate_trust_eta=refused, aggregate_trust_relation="uncertifiable"), 160
        )
    lost = {"first_increase_eta_upper": 0.15, "argmin_loss_eta_upper": 0.06, "losses": (1.0, 1.0, 1.0, float("nan"))}
    beside = page(replace(result, trust_eta_upper=0.06, **lost))
    assert "0.05 to 0.06" in beside and "the loss is no longer finite" in beside


def test_theory_is_shown_where_it_allows_less_than_was_measured_and_under_verbose(make_result: MakeResult) -> None:
    result = replace(make_result(), trust_eta=0.9)
    assert "Theory (Lemma 2)     0.414  for depth 2: less than was measured here" in page(result)
    for beyond in (0.01, 0.3, 0.5):
        usual = page(replace(result, trust_eta=beyond))
        assert "Theory" not in usual and "Lemma 2" not in usual and "× theory" not in usual
    whole = page(make_result(), verbose=True)
    assert "┊ Lemma 2" in whole and "× theory" in whole and "Lemma 2, count" in whole
    names = tuple(layer.name for layer in result.layers)
    assert "Lemma 2" not in page(replace(result, without_size=names))


def test_what_was_moved_is_said_first(make_result: MakeResult) -> None:
    result = make_result()
    names = tuple(layer.name for layer in result.layers)
    assert "one Fromage step may move the network as a whole" in "".join(sentences(replace(result, without_size=names)))
    sgd = replace(result, direction="sgd", step_scale=2.0)
    assert "one SGD step may move the fastest layer" in "".join(sentences(sgd))
    assert "rate 0.1; layers.0.weight fails first" in page(sgd)
    assert next(sentences(replace(sgd, decay_left_out=0.3))) == "The step is without its weight decay (0.3)."
    assert "of the way to the other weights" in "".join(sentences(replace(result, direction="to:other.pt")))
    random = page(replace(result, direction="random"))
    assert "A random direction" in random and "sure" not in random.lower()
    assert [*sentences(replace(result, etas=()))] == ["No step was measured."]
    assert next(sentences(replace(result, complete=False))) == "Stopped early, after 4 steps."


def test_a_network_without_gradients_is_given_no_limit(make_result: MakeResult, make_layer: MakeLayer) -> None:
    bias = make_layer("head.bias", shape=(10,))
    still = tuple(SkippedTensor(f"fc{index}.weight", "zero gradient") for index in (1, 2))
    told = page(make_result(layers=(bias,), skipped=still))
    assert told == (
        "Nothing has a gradient but head.bias: 2 tensors cannot learn on this batch.\n"
        "Units that never activate, or a head of zeros, pass no gradient on.\n"
    )
    for other in (make_result(skipped=still), make_result(layers=(bias,), skipped=(SkippedTensor("a", "excluded"),))):
        assert "Nothing has a gradient" not in page(other)


def test_advice(make_result: MakeResult) -> None:
    result = make_result()
    keep = "keep each layer's ‖ΔW‖/‖W‖ below 5 %. In your rate: fromage-diag suggest-lr run/a.pt"
    assert advise(result, "run/a.pt") == keep and advise(result, None, " --model a.py:b").endswith(
        " CKPT --model a.py:b"
    )
    assert "a learning rate up to 0.1 " in advise(replace(result, direction="sgd", step_scale=2.0), None)
    assert advise(replace(result, direction="to:b.pt"), None).startswith("go at most 6.1 % of the way at once")
    uphill = replace(result, direction="to:b.pt", loss_slope=0.2, aggregate_trust_eta=NOWHERE["below-grid"])
    assert advise(uphill, None) == "go no part of this way: from here it goes uphill."
    assert advise(replace(uphill, direction="adam"), None).startswith("do not take this step: it goes uphill.")
    assert "Sure as a whole      none   the step as a whole goes uphill" in page(uphill)
    assert "leave --direction out" in advise(replace(result, direction="random"), None)
    assert advise(replace(result, trust_eta=ABOVE), None) == ""
    ended = replace(result, trust_eta=ABOVE, trust_relation="above-grid", etas=(1e-6, 1e-4))
    assert advise(ended, None) == "let --eta reach further: --eta 0.0001:0.01:17."


def test_more_under_verbose(make_result: MakeResult) -> None:
    text = page(make_result(), 160, verbose=True)
    assert all(word in text for word in ("from curvature", "Lemma 2, count", "shape", "depth:", "loss "))


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
    assert "layers.10 " in text and "layers.9 " not in text and "6 more" in text


def test_the_headline_as_a_table(make_result: MakeResult) -> None:
    table = headline(make_result(aggregate_trust_eta=ABOVE))
    assert table.columns == ("name", "value", "unit")
    assert table.rows[0] == ("sure_in_every_layer", 0.05, "relative step")
    assert dict(row[:2] for row in table.rows)["fails_first"] == "layers.0.weight"
    assert headline(make_result(direction="to:b.pt")).rows[1] == ("sure_as_a_whole", 0.061, "of the way")
