import io
import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fromage_cli.terminal.words import (
    ASCII_ERRORS,
    ascii_words,
    in_bytes,
    in_seconds,
    middle,
    number,
    number_range,
    sparkline,
    visible,
)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.00431, "0.00431"),
        (1.2e-05, "1.2e-05"),
        (0.0, "0"),
        (1000.0 - 1e-9, "1000"),
        (1234.56, "1235"),
        (123456.7, "123457"),
        (1.5e7, "1.5e+07"),
        (-0.98765, "-0.988"),
        (17, "17"),
        (12345678, "12345678"),
        (None, "—"),
        (True, "yes"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_number(value, words):
    assert number(value) == words


def test_number_range() -> None:
    assert number_range(0.05, 1.5) == "0.05 to 1.5"
    assert number_range(None, 1.5) == number_range(1.4999, 1.5) == "1.5"
    assert number_range(0.0, 1.5) == "0 to 1.5"


def test_number_without_a_dash_in_ascii():
    assert number(None, ascii_only=True) == "-"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer.0.weight", "layer.0.weight"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\tb\nc\r", r"a\tb\nc\r"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2066b\u200b", r"a\u2066b\u200b"),
        ("\x9b31m", r"\x9b31m"),
        ("\udc80", r"\udc80"),
        ("\u2028", r"\u2028"),
        ("größe η", "größe η"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_visible_leaves_nothing_that_acts(text):
    assert all(unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in visible(text))


@given(st.text(), st.integers(0, 30))
def test_middle_never_exceeds_its_width(text, width):
    assert cell_len(middle(visible(text), width)) <= max(width, 0)


def test_middle_keeps_the_end():
    name = "transformer.blocks.11.attention.query.weight"
    assert middle(name, 24) == "transfo…ion.query.weight"
    assert middle(name, 24, ascii_only=True) == "transfo..on.query.weight"
    assert middle(name, 100) == name


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, 10, 100], log=True) == "▁▅█"
    assert sparkline([0, 1, 100], log=True) == "▁▁█"
    assert sparkline([1, None, math.nan, math.inf, -math.inf, 2]) == "▁  █▁█"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([0, 5], ascii_only=True) == ".@"


@given(st.lists(st.none() | st.floats()), st.booleans(), st.booleans())
def test_sparkline_takes_any_numbers(values, log, ascii_only):
    line = sparkline(values, log=log, ascii_only=ascii_only)
    assert len(line) == len(values)
    assert line.isascii() or not ascii_only


def test_ascii_words():
    assert ascii_words("trust η ≤ 3×10²…") == "trust eta <= 3x10^2..."
    assert ascii_words("é漢") == r"e\u6f22"


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_the_error_handler_encodes_anything(text):
    assert ascii_words(text).isascii()
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=ASCII_ERRORS)
    stream.write(text)
    stream.flush()


@pytest.mark.parametrize(("count", "text"), [(999, "999 bytes"), (1000, "1 kB"), (1234567, "1.23 MB"), (5e12, "5 TB")])
def test_bytes(count, text):
    assert in_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1 s"), (19.7, "20 s"), (88.0, "88 s"), (134.0, "2.2 min"), (5600.0, "1.6 h"), (9e6, "2500 h")],
)
def test_seconds(seconds, text):
    assert in_seconds(seconds) == text
