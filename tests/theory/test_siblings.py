import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromage_cli.theory.siblings import LEAST, out_of_line, repeated_median_slope, sibling_groups

scatter = st.lists(st.floats(0.9, 1.1), min_size=LEAST, max_size=24)


@given(scatter, st.floats(-1.0, 1.0), st.floats(1e-20, 1e20))
def test_a_trend_along_depth_and_a_common_scale_are_in_line(values: list[float], trend: float, scale: float) -> None:
    assert out_of_line([scale * value * math.exp(trend * place) for place, value in enumerate(values)], 2.0) == {}


@given(st.integers(LEAST, 24), st.data(), st.floats(-1.0, 1.0), st.sampled_from([0.01, 0.1, 10.0, 100.0]))
def test_one_odd_value_is_found_wherever_it_stands(
    count: int, data: st.DataObject, trend: float, factor: float
) -> None:
    odd = data.draw(st.integers(0, count - 1))
    values = [math.exp(trend * place) * (factor if place == odd else 1.0) for place in range(count)]
    assert out_of_line(values, 3.0) == {odd: pytest.approx(factor)}


def test_siblings_that_scatter_as_much_hide_none() -> None:
    wide = [1.0, 8.0, 0.5, 6.0, 0.2, 4.0, 1.5, 12.0]
    assert out_of_line(wide, 2.0) == {}
    assert out_of_line([1.0, 1.0, 100.0], 2.0) == out_of_line([1.0, 0.0, 1.0, 100.0], 2.0) == {}


@given(st.floats(-5.0, 5.0), st.integers(5, 15), st.data())
def test_a_minority_of_anything_leaves_the_slope_of_a_line(slope: float, count: int, data: st.DataObject) -> None:
    wrong = data.draw(st.sets(st.integers(0, count - 1), max_size=(count - 1) // 2 - 1))
    values = [1e3 * (place + 1) if place in wrong else slope * place for place in range(count)]
    assert repeated_median_slope(values) == pytest.approx(slope, abs=1e-9)


def test_siblings_have_one_role_and_only_too_few_of_them_join_those_of_other_roles() -> None:
    blocks = {f"blocks.{k}.{role}.weight": "16×16" for k in range(4) for role in ("query", "output")}
    few = {f"heads.{k}.{role}.weight": "3×3" for k in range(2) for role in ("a", "b")}
    groups = sibling_groups({**blocks, **few, "fc1.weight": "2×2", "fc2.weight": "2×2", "head.weight": "16×16"})
    assert groups == [[name for name in blocks if role in name] for role in ("query", "output")] + [list(few)]
