import pytest
from rich.console import Console

from fromage_cli.terminal.answer import PageStyle
from fromage_cli.terminal.page import ROWS, Band, Fact, Mark, facts, header, ruler, shown_rows, what_now


def printed(width, *parts):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_header_is_one_line_of_what_has_room():
    parts = ("run/step-10", "", "GPT, 28 layers", "64 rows")
    assert header(parts, PageStyle(width=80)).plain == "run/step-10 · GPT, 28 layers · 64 rows"
    assert header(parts, PageStyle(width=30)).plain == "run/step-10 · GPT · 64 rows"
    assert header(("out/ckpt, step 10", *parts[2:]), PageStyle(width=20)).plain == "out/ckpt · GPT"
    assert header(parts, PageStyle(width=5)).plain == "run/step-10"  # the first is never left out
    assert header(parts, PageStyle(width=30, verbose=True)).plain == "run/step-10 · GPT, 28 layers · 64 rows"
    assert header(("a", "b"), PageStyle(ascii_only=True)).plain == "a * b"
    assert header((), PageStyle()).plain == ""
    parameters = ("ckpt", "528,388 parameters", "all float32")
    assert header(parameters, PageStyle(width=30)).plain == "ckpt · 528,388 parameters"  # no number is cut


def test_facts_stand_below_each_other_and_their_words_are_broken():
    found = [Fact("Safe step", "0.004", "every layer helps"), Fact("", "0.0072", "the loss is sure to fall")]
    assert printed(80, facts(found, PageStyle())) == [
        "  Safe step  0.004   every layer helps",
        "             0.0072  the loss is sure to fall",
    ]
    assert printed(36, facts(found, PageStyle(width=36)))[2:] == [
        "             0.0072  the loss is",
        "                     sure to fall",
    ]
    assert printed(80, facts(found[:1], PageStyle(), beside=[Fact("Rate to train at", "0.01")])) == [
        "  Safe step         0.004  every layer helps"
    ]


def test_words_without_room_beside_their_number_stand_below_it():
    found = [Fact("Safe step", "0.004", "every layer helps")]
    assert printed(31, facts(found, PageStyle(width=31))) == [
        "  Safe step  0.004  every layer",
        "                    helps",
    ]
    assert printed(20, facts(found, PageStyle(width=20))) == ["  Safe step  0.004", "    every layer", "    helps"]


@pytest.mark.parametrize(
    ("ascii_only", "short"), [(False, "…0.self_attn.k_proj.weight"), (True, "..0.self_attn.k_proj.weight")]
)
def test_a_long_name_in_the_words_is_shortened_and_not_broken(ascii_only, short):
    names = [f"model.language_model.layers.{n}.self_attn.{p}_proj.weight" for n in range(4) for p in "kqv"]
    found = [Fact("Sure in every layer", "0.00123", f"vectors and {names[0]} fail first")]
    lines = printed(60, facts(found, PageStyle(width=60, ascii_only=ascii_only), names))
    assert [line.split() for line in lines][1:] == [[short], ["fail", "first"]]
    assert names[0] in " ".join(printed(120, facts(found, PageStyle(width=120), names)))


def test_a_ruler_places_numbers_by_their_logarithm():
    marks = [Mark(0.01, "●", "every layer"), Mark(0.0316227766, "▲", "loss rises")]
    labels, axis, legend = (line.plain for line in ruler("η", marks, PageStyle()))
    start = len("   η ")
    cells = len(axis.strip()) - 1
    assert labels.index("0.01") == axis.index("●") == start - 1
    assert axis.index("▲") - axis.index("●") == round(cells / 2)
    assert legend.split() == ["●", "every", "layer", "▲", "loss", "rises"]


def test_places_that_fall_together_share_a_sign():
    marks = [Mark(0.001, "●", "every layer"), Mark(0.0010001, "◆", "as a whole"), Mark(10.0, "▲", "loss rises")]
    lines = [line.plain for line in ruler("η", marks, PageStyle(width=60))]
    assert "◆" not in lines[1] and "● every layer, as a whole" in lines[2]
    assert max(map(len, lines[:2])) <= 60


@pytest.mark.parametrize("span", [1, 3, 12, 40])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_ticks_never_run_together(span, width):
    marks = [Mark(1e-9, "●", "a"), Mark(10.0 ** (span - 9), "▲", "b")]
    labels, axis, _ = (line.plain for line in ruler("rate", marks, PageStyle(width=width)))
    assert all(float(text) > 0.0 for text in labels.split()[1:])
    assert len(axis) <= width


def test_a_band_lies_below_the_places_in_it():
    marks = [Mark(0.02, "▼", "you"), Mark(0.05, "▲", "rises")]
    _, axis, legend = (line.plain for line in ruler("rate", marks, PageStyle(), Band(0.005, 0.03, "train at")))
    assert axis.index("═") < axis.index("╪") < axis.index("▼") < axis.rindex("═") < axis.index("▲")
    assert legend.strip().split("   ") == ["═ train at", "▼ you", "▲ rises"]


def test_a_band_reaches_beyond_all_places_and_may_be_narrower_than_a_cell():
    wide = [line.plain for line in ruler("rate", [Mark(0.02, "▼", "you")], PageStyle(), Band(1e-4, 3.0, "train at"))]
    assert wide[0].split()[1] == "0.0001" and wide[0].split()[-1] == "10" and len(wide[1]) <= 80
    whole = ruler("rate", [Mark(0.02, "▼", "you")], PageStyle(), Band(0.01, 0.1, "train at"))[1].plain
    assert whole.strip().startswith("╞═") and whole.endswith("═╡") and "─" not in whole
    narrow = ruler("rate", [Mark(0.05, "▼", "you")], PageStyle(), Band(0.02, 0.02001, "train at"))
    assert narrow[1].plain.count("═") == 1 and "═ train at   ▼ you" in narrow[2].plain
    hidden = ruler("rate", [Mark(0.02, "▼", "you")], PageStyle(), Band(0.02, 0.02001, "train at"))
    assert "═" not in hidden[1].plain and "▼ you, train at" in hidden[2].plain
    alone = ruler("rate", [], PageStyle(ascii_only=True), Band(0.02, 0.2, "train at"))
    assert "= train at" in alone[2].plain and alone[1].plain.isascii()
    assert ruler("rate", [], PageStyle(), Band(0.0, 0.2, "train at")) == []


def test_a_ruler_without_places_is_not_drawn_and_signs_are_ascii_where_need_be():
    assert ruler("η", [Mark(0.0, "●", "a"), Mark(float("nan"), "▲", "b")], PageStyle()) == []
    lines = ruler("rate", [Mark(0.02, "●", "a"), Mark(0.03, "▲", "b")], PageStyle(ascii_only=True))
    assert all(line.plain.isascii() for line in lines) and "^ b" in lines[2].plain


def test_rows_and_advice():
    assert len(shown_rows(range(9), PageStyle())) == ROWS and len(shown_rows(range(9), PageStyle(show_all=True))) == 9
    assert what_now("Lower it.", PageStyle()).plain == "What now: Lower it."
    assert what_now("Keep ‖W‖", PageStyle(ascii_only=True)).plain == "What now: Keep ||W||"


def test_a_header_cuts_no_number_at_its_thousands() -> None:
    parts = ("run/step-000860", "29 tensors", "91,584 parameters", "366 kB", "AdamW, 860 updates")
    assert "91,584 parameters" in header(parts, PageStyle(width=72)).plain
    assert "860 updates" not in header(parts, PageStyle(width=72)).plain
