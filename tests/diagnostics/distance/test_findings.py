import math

import pytest

from fromage_cli.diagnostics.distance.findings import judge
from fromage_cli.diagnostics.distance.result import Unpaired


def codes(result):
    return [(finding.code, finding.severity) for finding in judge(result)]


def test_two_steps_of_one_run_say_nothing(make_result):
    assert judge(make_result()) == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"second_norm": math.nan, "relative_distance": None, "angle": None}, ("distance-not-finite", "fail")),
        ({"angle": 2.0}, ("layer-turned", "info")),
        ({"relative_distance": 0.0, "angle": 0.0}, ("layer-unmoved", "info")),
        ({"second_dtype": "bfloat16"}, ("dtypes-differ", "info")),
    ],
)
def test_layers(make_result, make_layer, changes, code):
    found = make_result(layers=(make_layer("a"), make_layer("b", **changes)))
    assert codes(found) == [code]


def test_rounding_is_told_from_training(make_result, make_layer):
    near, far = (
        judge(make_result(layers=(make_layer(second_dtype="bfloat16", relative_distance=distance),)))[0].message
        for distance in (0.0017, 0.02)
    )
    assert "rounding to bfloat16" in near and "rounding" not in far


def test_other_dtypes_without_a_distance(make_result, make_layer):
    zero = make_layer(second_dtype="float16", relative_distance=None, first_norm=0.0)
    (finding,) = judge(make_result(layers=(zero,)))
    assert finding.message == "1 of 1 layer is float32 in the first and float16 in the second" and finding.value is None


def test_what_has_no_counterpart(make_result):
    unpaired = Unpaired(("a", "b", "c", "d"), ("e",), ("f",), (("g", "h"),), ())
    found = judge(make_result(unpaired=unpaired))
    assert [finding.code for finding in found] == ["tensors-unpaired"] * 3 + ["ties-differ"]
    assert [finding.severity for finding in found] == ["warn"] * 3 + ["info"]
    assert "4 tensors are only in the first, and left out: a, b, c …" in found[0].message
    assert found[1].layer == "e" and "different shapes" in found[2].message and "first alone" in found[3].message


def test_networks_that_are_equal_throughout_are_no_news(make_result, make_layer):
    same = make_layer(relative_distance=0.0, angle=0.0)
    assert codes(make_result(layers=(same, same))) == []


def test_layers_that_turned_all_the_way_are_counted(make_result, make_layer):
    layers = tuple(make_layer(f"w{index}", angle=2.0 + 0.1 * index) for index in range(3))
    (finding,) = judge(make_result(layers=layers))
    assert (finding.layer, finding.message) == (
        "w2",
        "turned by 126° from where it was; 2 more layers turned by 90° or further",
    )
