"""Layers beside those like them in other blocks."""

import math

import pytest

from fromage_cli.diagnostics.check.siblings import compare_siblings, family

SHAPE = (8, 8)


def factors(sizes: list[float], name: str = "blocks.{}.mlp.weight") -> dict[str, float]:
    layers = [(name.format(block), SHAPE, size) for block, size in enumerate(sizes)]
    return {one.name: one.factor for one in compare_siblings(layers)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.3.mlp.0.weight", ("blocks.#.mlp.0.weight", 3)),
        ("7.weight", ("#.weight", 7)),
        ("layer1.conv2.weight", None),
        ("head.weight", None),
    ],
)
def test_the_first_number_of_a_path_is_the_block(name: str, expected: tuple[str, int] | None) -> None:
    assert family(name) == expected


def test_one_layer_ten_times_too_large_and_no_other() -> None:
    found = factors([1.0, 1.1, 10.0, 0.9, 1.0, 1.05])
    assert found["blocks.2.mlp.weight"] == pytest.approx(10.0, rel=0.1)
    assert all(0.5 < factor < 2.0 for name, factor in found.items() if "2" not in name)


def test_a_trend_along_the_depth_is_no_outlier() -> None:
    assert all(math.isclose(factor, 1.0) for factor in factors([2.0**-block for block in range(12)]).values())


def test_too_few_and_other_shapes_and_vectors_are_left_out() -> None:
    assert factors([1.0, 1.0, 9.0]) == {}
    layers = [(f"blocks.{block}.weight", (8, 8 + block), 1.0) for block in range(6)]
    layers += [(f"blocks.{block}.bias", (8,), 1.0) for block in range(6)]
    layers += [(f"blocks.{block}.zero", SHAPE, 0.0) for block in range(6)]
    assert list(compare_siblings(layers)) == []
