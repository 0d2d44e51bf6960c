"""Layers whose weights are out of line with their siblings."""

import pytest
import torch
from torch import nn

from fromage_cli.probes.structure.sizes import layers_out_of_line
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.siblings import OutOfLine


def tensors(factor: float, kind: str = "Linear") -> list[TrainableTensor]:
    torch.manual_seed(0)
    return [
        TrainableTensor(
            f"blocks.{place}.weight", nn.Parameter(torch.randn(16, 16) * (factor if place == 3 else 1.0)), kind
        )
        for place in range(6)
    ]


@pytest.mark.parametrize("factor", [8.0, 0.1])
def test_the_one_of_another_size_is_named(factor: float) -> None:
    (found,) = layers_out_of_line(tensors(factor))
    assert found == OutOfLine("blocks.3.weight", "weights", pytest.approx(factor, rel=0.15))


def test_alike_ones_few_ones_vectors_tables_and_zeros_are_not() -> None:
    assert layers_out_of_line(tensors(1.5)) == ()
    assert layers_out_of_line(tensors(8.0)[2:5]) == ()
    assert layers_out_of_line(tensors(8.0, "Embedding")) == ()
    vectors = [TrainableTensor(one.name, nn.Parameter(one.parameter[0].detach()), one.kind) for one in tensors(8.0)]
    assert layers_out_of_line(vectors) == layers_out_of_line(tensors(0.0)) == ()
