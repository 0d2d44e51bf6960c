import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.report.figures import (
    LABEL,
    LEVELS,
    WIDTH,
    Curve,
    Linear,
    Logarithmic,
    MapRow,
    Mark,
    balance,
    curves,
    evenly,
    ruler,
    step_map,
)

above = st.floats(1e-300, 1e300)


def tree(picture: object) -> ElementTree.Element:
    assert picture is not None
    return ElementTree.fromstring(str(picture))


@given(above, above, st.floats(0.0, 1.0))
def test_places_on_an_axis_are_those_of_logarithms(one: float, other: float, share: float) -> None:
    low, high = sorted((one, other))
    scale = Logarithmic(low, high, 10.0, 110.0)
    if high > low * 1.1:
        between = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        assert scale(between) == pytest.approx(10.0 + 100.0 * share, abs=1e-6)
        assert scale.inverse(scale(between)) == pytest.approx(between, rel=1e-6)
    assert all(9.0 <= scale(value) <= 111.0 for value in scale.ticks())


def test_ticks_are_round() -> None:
    assert Logarithmic(0.0008, 0.03, 0, 1).ticks() == pytest.approx([0.001, 0.002, 0.005, 0.01, 0.02])
    assert Logarithmic(1e-9, 1e9, 0, 1).ticks() == pytest.approx([10.0**power for power in range(-9, 10, 2)])


def test_a_ruler_says_its_numbers_and_no_labels_overlap() -> None:
    marks = [Mark(0.001 * 1.01**place, f"limit {place}") for place in range(5)] + [Mark(0.1, "your rate", "you")]
    found = tree(ruler([*marks, Mark(0.0, "never")], "Learning rates", "learning rate"))
    assert "your rate 0.1" in found.attrib["aria-label"] and "never" not in found.attrib["aria-label"]
    labels = [each for each in found.iter("text") if ":" in (each.text or "")]
    places = [(float(each.attrib["y"]), float(each.attrib["x"]), 6.4 * len(each.text or "") / 2) for each in labels]
    assert len(places) == 6
    for first, (y, x, half) in enumerate(places):
        for other_y, other_x, other_half in places[first + 1 :]:
            assert y != other_y or abs(x - other_x) >= half + other_half
    assert ruler([], "Learning rates", "x") is None


def test_curves_are_drawn_where_both_numbers_are_above_zero() -> None:
    given = [Curve(f"layer {place}", [0.001, None, 0.1, 1.0], [1.0 + place, 2.0, 0.0, 4.0]) for place in range(8)]
    found = tree(curves(given, "Title", ("x", "y"), level=1.0))
    lines = list(found.iter("polyline"))
    assert len(lines) == 8 and all(len(each.attrib["points"].split()) == 2 for each in lines)
    assert sum("rest" in each.attrib["class"] for each in lines) == 2
    assert "and 2 more in grey" in found.attrib["aria-label"]
    assert curves([Curve("one", [1.0], [1.0])], "Title", ("x", "y")) is None


@given(st.floats(-1e9, 1e9), st.floats(1.0, 1e9))
def test_steps_stand_on_a_linear_axis(low: float, length: float) -> None:
    scale = Linear(low, low + length, 0.0, 100.0)
    assert scale(low + length / 4.0) == pytest.approx(25.0, abs=1e-3)
    ticks = scale.ticks()
    assert 3 <= len(ticks) <= 9 and all(-1e-3 <= scale(value) <= 100.001 for value in ticks)


def test_a_map_has_a_shade_for_each_value() -> None:
    rows = [MapRow("one", [1.0, 1.0, 100.0]), MapRow("two", [None, 10.0, 0.0])]
    found = tree(step_map(rows, ["0", "5", "10"], "Title"))
    (cells,) = (each for each in found.iter("g"))
    drawn = {each.attrib["class"]: each.attrib["d"] for each in cells}
    assert drawn == {"s0": "M0 0h2", f"s{LEVELS - 1}": "M2 0h1", "s3": "M1 1h1"}
    assert step_map([MapRow("one", [None, 0.0])], ["0", "1"], "Title") is None


@given(st.integers(0, 500), st.integers(2, 60))
def test_evenly_spaced_places_hold_both_ends(count: int, most: int) -> None:
    found = evenly(count, most)
    assert len(found) == min(count, most) and found == sorted(set(found))
    assert not count or (found[0] == 0 and found[-1] == count - 1)


def test_bars_point_to_the_side_of_their_factor() -> None:
    found = tree(balance([("half", 0.5), ("double", 2.0), ("none", 0.0)], "Title", ("below", "above")))
    bars = [each.attrib["d"] for each in found.iter("path") if each.attrib["class"] == "bar"]
    (middle, _, left), (_, _, right) = (re.findall(r"[\d.]+", each) for each in bars)
    assert float(left) == pytest.approx(LABEL) and float(right) == pytest.approx(WIDTH - 60)
    assert float(middle) == pytest.approx((LABEL + WIDTH - 60) / 2, abs=0.1)


@given(st.text(), st.lists(st.none() | st.floats(1e-320, 1e308), min_size=2, max_size=5))
def test_names_and_numbers_of_any_kind_leave_whole_pictures(name: str, values: list[float | None]) -> None:
    tags = set()
    for picture in (
        ruler([Mark(value, name) for value in values if value], name, name),
        curves([Curve(name, values, values)], name, (name, name)),
        step_map([MapRow(name, values)], [name] * len(values), name),
        balance([(name, value) for value in values if value], name, (name, name)),
    ):
        if picture is not None:
            tags |= {each.tag for each in tree(picture).iter()}
    assert tags <= {"svg", "text", "path", "polyline", "g"}
