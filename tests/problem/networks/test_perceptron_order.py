import random

import pytest

from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.perceptron_layers import LinearLayer, NormLayer
from fromage_cli.problem.networks.perceptron_order import check_boundaries, in_order, natural


def layers(**shapes: tuple[int, int]) -> list[LinearLayer]:
    """Layers by path -> (inputs, outputs)."""
    return [LinearLayer(path, inputs, outputs, True) for path, (inputs, outputs) in shapes.items()]


def paths(found: tuple[LinearLayer, ...]) -> list[str]:
    return [layer.path for layer in found]


def test_numbers_ascend_as_numbers() -> None:
    names = [f"layers.{index}" for index in range(120)]
    assert paths(in_order(layers(**dict.fromkeys(sorted(names), (8, 8))))) == names
    assert sorted(["fc10", "fc2", "fc1"], key=natural) == ["fc1", "fc2", "fc10"]


@pytest.mark.parametrize(
    "shapes",
    [
        {"fc1": (3, 8), "fc2": (8, 8), "fc3": (8, 2)},
        {"encoder": (3, 8), "output": (8, 2)},
        {"input": (3, 8), "hidden.0": (8, 8), "hidden.1": (8, 8), "output": (8, 2)},
        {"hidden.3.linear": (3, 8), "hidden.11.linear": (8, 8), "head.linear": (8, 2)},
        {"blocks.0.up": (8, 32), "blocks.0.down": (32, 8), "blocks.1.up": (8, 16), "blocks.1.down": (16, 2)},
    ],
)
def test_the_order_of_other_names_follows_from_the_shapes(shapes: dict[str, tuple[int, int]]) -> None:
    expected = list(shapes)
    mixed = list(shapes.items())
    for seed in range(5):
        random.Random(seed).shuffle(mixed)
        assert paths(in_order(layers(**dict(mixed)))) == expected


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"0": (3, 8), "2": (9, 2)}, "'0' has 8 outputs and '2' 9 inputs"),
        ({"0": (8, 2), "2": (3, 8)}, "'0' has 2 outputs and '2' 3 inputs"),
        ({"key": (8, 8), "query": (8, 8)}, "the order of its layers is not clear: key → query or query → key"),
        ({"hidden.0": (8, 8), "hidden.1": (8, 8), "output": (8, 8)}, "the order of its layers is not clear"),
        ({f"blocks.{i}.{n}": (8, 8) for i in range(30) for n in "ab"}, "the order of its layers is not clear"),
        (dict.fromkeys("abcdefg", (8, 8)), "the order of its layers is not clear"),
        ({"fc": (8, 8), "fc.lora": (8, 8)}, "'fc' is a layer and contains other layers"),
        ({"mu": (8, 2), "sigma": (8, 2), "body": (3, 8)}, "no other order of the layers fits"),
    ],
)
def test_an_order_that_is_open_or_impossible_is_refused(shapes: dict[str, tuple[int, int]], words: str) -> None:
    with pytest.raises(MismatchError, match=words):
        in_order(layers(**shapes))


@pytest.mark.parametrize(
    "shapes",
    [
        {"encoder.0": (8, 4), "encoder.2": (4, 2), "decoder.0": (2, 4), "decoder.2": (4, 9)},
        {"encoder.fc1": (8, 4), "encoder.fc2": (4, 2), "decoder.fc1": (2, 4), "decoder.fc2": (4, 9)},
        {"features.0": (8, 4), "features.2": (4, 4), "head": (4, 2)},
    ],
)
def test_blocks_that_may_meet_with_or_without_an_activation(shapes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(MismatchError, match="whether an activation stands between"):
        check_boundaries(in_order(layers(**shapes)), ())


def test_a_container_with_and_without_room_for_activations() -> None:
    with pytest.raises(MismatchError, match="no room for an activation after '1'"):
        check_boundaries(layers(**{"1": (8, 4), "2": (4, 4), "4": (4, 2)}), ())


def test_norms_take_places_that_are_no_activations() -> None:
    norms = [NormLayer("1", 4, frozenset({"weight"})), NormLayer("4", 4, frozenset({"weight"}))]
    check_boundaries(layers(**{"0": (8, 4), "3": (4, 4), "6": (4, 2)}), norms)
    check_boundaries(layers(**{"0": (8, 4), "2": (4, 4), "4": (4, 2)}), ())
    check_boundaries(layers(**{"hidden.0": (8, 4), "hidden.1": (4, 4), "out": (4, 2)}), ())
