import math

import pytest

from fromage_cli.terminal import charts
from tests.diagnostics.pictures import points

figure = pytest.importorskip("matplotlib.figure")
HOSTILE = ("_$\\alpha$", "a\x1b[31mred\nnew", "right\u202eleft", "x" * 200 + ".weight")
SHOWN = ["_$\\alpha$", "a\\x1b[31mred\\nnew", "right\\u202eleft", "…weight"]


@pytest.mark.parametrize(("count", "named", "rows"), [(0, 0, 0), (24, 24, 24), (25, 16, 22), (143, 16, 22)])
def test_the_first_of_many_layers_are_named_and_the_others_share_a_band(count, named, rows):
    found = charts.Rows(tuple(f"layers.{index}" for index in range(count)))
    assert (found.named, found.count, len(found.heights)) == (named, rows, count)
    assert found.heights[:named] == [-float(place) for place in range(named)]
    assert found.heights == sorted(found.heights, reverse=True) and len(set(found.heights)) == count
    assert all(-rows < height <= 0.0 for height in found.heights)
    rest = count - named
    assert found.rule("first") == (f"Named are the 16 layers first; {rest} more are grey." if rest else "")


def test_named_layers_have_their_names_and_the_band_says_how_many_it_holds():
    axes = figure.Figure().subplots()
    charts.Rows((*HOSTILE, *map(str, range(100)))).frame(axes, labelled=True)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:4] == SHOWN and len(labels) == 17 and labels[-1] == "88 more layers"
    charts.Rows(HOSTILE).frame(axes, labelled=False)
    assert [label.get_text() for label in axes.get_yticklabels()] == [""] * 4


def test_no_digit_of_a_long_name_is_cut_and_no_two_look_alike():
    names = [f"model.language_model.layers.{place}.self_attn.q_proj.weight" for place in range(143)]
    shown = charts.short_names(names[:20], names)
    assert len({*shown}) == 20 and all(len(name) <= charts.NAME_WIDTH for name in shown)
    assert all(f".{place}." in name or f"…{place}." in name for place, name in enumerate(shown))


def test_the_band_holds_none_of_the_named_and_all_others():
    axes = figure.Figure().subplots()
    charts.Rows(tuple(map(str, range(143)))).dots(axes, [float(place) for place in range(143)])
    band, named = axes.lines
    assert list(named.get_xdata()) == [*range(16)] and list(band.get_xdata()) == [*range(16, 143)]
    assert band.get_color() == charts.GREY and band.get_markersize() < named.get_markersize()


def test_each_value_is_a_dot_in_its_row_zero_is_an_arrow_and_the_rest_is_not_drawn():
    axes = figure.Figure().subplots()
    values = [0.02, 0.0, None, math.nan, math.inf, 1e300, 0.5]
    charts.Rows(tuple("abcdefg")).log_dots(axes, values)
    assert points(axes, "o") == [(0.02, 0.0), (0.5, -6.0)]
    assert points(axes, "<") == [(axes.get_xlim()[0], -1.0)]
    assert [text.get_text() for text in axes.texts] == ["0.02", "0", "0.5"]


@pytest.mark.parametrize("values", [[], [0.0], [None], [5e-324], [1e-249, 1e249], [3.0]])
def test_any_values_have_a_logarithmic_axis_around_them(values):
    axes = figure.Figure().subplots()
    charts.logarithmic(axes, values)
    low, high = axes.get_xlim()
    assert 0.0 < low < high < math.inf
    assert all(low < value < high for value in values if value and value > 1e-250)


def test_long_lines_are_broken_and_the_panels_begin_below_them():
    drawn = figure.Figure(figsize=(10.0, 5.0))
    one = charts.head(drawn, "run/$a$\x1b.pt", "word " * 20)
    assert [text.get_text() for text in drawn.texts] == ["run/$a$\\x1b.pt", ("word " * 20).strip()]
    assert one == pytest.approx(1.0 - 56.0 / 360.0)
    assert charts.head(figure.Figure(figsize=(10.0, 5.0)), "run", "word " * 40, "", "end") == pytest.approx(
        1.0 - 84.0 / 360.0
    )


def test_a_line_without_end_leaves_the_panels_their_room():
    drawn = figure.Figure(figsize=(10.0, 5.0))
    below = charts.head(drawn, "run", "a" * 20_000, "never shown")
    shown = [text.get_text() for text in drawn.texts[1:]]
    assert shown == ["a" * charts.LINE_WIDTH] * 5 + ["a" * charts.LINE_WIDTH + " …"]
    assert below == pytest.approx(1.0 - 126.0 / 360.0)


def test_what_is_left_out_is_said():
    assert charts.left_out([], "layer", "zero") == []
    assert charts.left_out(["a\n"], "layer", "zero") == ["1 layer is not drawn (zero): a\\n."]
    assert charts.left_out([*"abcd"], "layer", "zero") == ["4 layers are not drawn (zero): a, b, c …."]


def test_a_legend_keeps_names_that_begin_with_an_underscore():
    axes = figure.Figure().subplots()
    line = axes.plot([0, 1], [0, 1])[0]
    charts.legend_below(axes, [(line, "_a"), (line, "$b$")])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_a", "$b$"]


def test_words_stand_where_nothing_is_drawn():
    axes = figure.Figure().subplots()
    charts.say_instead(axes, "nothing was\x07 measured")
    assert [text.get_text() for text in axes.texts] == ["nothing was\\x07 measured"] and not axes.axison
