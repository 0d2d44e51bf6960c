"""What a certificate says of itself: which tensors it takes alone, and which together."""

import pytest
import torch
from torch import nn

from fromage_cli.probes.lines.certificate import Certificate
from fromage_cli.probes.lines.direction import Direction, Move
from fromage_cli.problem.networks.layers import TrainableTensor


def move(name: str, gradient_norm: float = 1.0) -> Move:
    shape = (2, 2) if "weight" in name else (2,)
    tensor = TrainableTensor(name, nn.Parameter(torch.ones(shape)), "Linear")
    return Move(tensor, -1.0, 1.0, gradient_norm, 1.0, 1.0)


def certificate(levels: dict[str, float], **more: bool) -> Certificate:
    direction = Direction("sgd", 1.0, tuple(move(name) for name in levels), (), lambda tensor: tensor.parameter)
    return Certificate(direction, levels, **more)


@pytest.mark.parametrize(
    ("levels", "criterion", "groups"),
    [
        ({"a.weight": 0.5}, "layers", 1),
        ({"a.weight": 0.5, "b.weight": 0.5}, "layers", 2),
        ({"a.weight": 0.5, "a.bias": 0.5, "b.weight": 0.5, "b.bias": 0.2}, "layers", 3),
        ({"a.weight": -0.1, "b.weight": 0.5, "b.bias": 0.2}, "layers", 2),
        ({"a.weight": -0.1, "b.weight": 0.5}, "sum", 1),
        ({"a.weight": 0.5, "a.bias": -0.1, "b.weight": 0.5}, "sum", 1),
        ({"a.bias": 0.5, "b.bias": 0.5}, "sum", 1),
    ],
)
def test_only_what_stands_alone_is_certain_by_layers(levels: dict[str, float], criterion: str, groups: int) -> None:
    found = certificate(levels)
    assert (found.criterion, len(found.groups)) == (criterion, groups)
    assert found.possible
    assert certificate(levels, together=True).criterion == "sum"


def test_excess_is_the_largest_of_the_groups() -> None:
    found = certificate({"a.weight": 0.5, "b.weight": 0.25, "b.bias": 0.5})
    changes = {"a.weight": 0.25, "b.weight": 0.2, "b.bias": 0.1}
    assert found.excess(changes) == pytest.approx(0.8)
    assert found.limiting(changes) == "b.weight"
    assert certificate({"a.weight": 0.5, "b.weight": 0.25}, together=True).excess(changes) == pytest.approx(0.6)


def test_nothing_to_count_on_is_not_possible() -> None:
    assert not certificate({"a.weight": -0.5, "b.weight": 0.25}).possible
