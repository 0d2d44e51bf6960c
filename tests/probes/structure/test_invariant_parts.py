import pytest
import torch
from torch import nn

from fromage_cli.probes.structure.invariant_parts import Partition, candidates, half_doubled, spread
from fromage_cli.problem.networks.layers import TrainableTensor


def orthogonal_in(parts: int, axis: int, shape: tuple[int, ...]) -> tuple[TrainableTensor, dict[str, torch.Tensor]]:
    """Weights, and a gradient orthogonal to them in each part."""
    generator = torch.Generator().manual_seed(0)
    weights, gradient = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    for w, g in zip(weights.chunk(parts, axis), gradient.chunk(parts, axis), strict=True):
        g.sub_((w * g).sum() / (w * w).sum() * w)
    return TrainableTensor("w", nn.Parameter(weights), "Linear"), {"w": gradient}


@pytest.mark.parametrize(("parts", "axis"), [(24, 0), (12, 0), (3, 0), (2, 0), (10, 1), (5, 1)])
def test_the_finest_parts_come_first(parts: int, axis: int) -> None:
    layer, gradients = orthogonal_in(parts, axis, (24, 10, 3, 3))
    found = [candidate for candidate in candidates([layer], gradients) if candidate.cosine < 1e-5]
    assert (found[0].axis, found[0].parts) == (axis, parts)
    assert {candidate.parts for candidate in found} == {n for n in range(2, parts + 1) if parts % n == 0}


def test_a_bias_belongs_to_the_rows_it_is_as_long_as() -> None:
    layer, gradients = orthogonal_in(4, 0, (8, 6))
    bias = TrainableTensor("b", nn.Parameter(torch.randn(8)), "Linear")
    weights, slope = layer.parameter.detach(), torch.zeros(8)
    for part in range(4):  # what the bias adds, its part of the gradient takes away
        rows = slice(2 * part, 2 * part + 2)
        slope[rows] = 1.0
        gradients["w"][rows] -= bias.parameter.detach()[rows].sum() / weights[rows].square().sum() * weights[rows]
    found = [candidate for candidate in candidates([layer, bias], gradients | {"b": slope}) if candidate.cosine < 1e-5]
    assert [(candidate.axis, candidate.parts) for candidate in found] == [(0, 4), (0, 2)]


def test_chance_is_screened_out() -> None:
    torch.manual_seed(0)
    layer = TrainableTensor("w", nn.Parameter(torch.randn(64, 64)), "Linear")
    assert len(list(candidates([layer], {"w": torch.randn(64, 64)}))) <= 2


@pytest.mark.parametrize("parts", [2, 3, 8, 15])
def test_half_of_the_parts_is_half_of_every_run_of_parts(parts: int) -> None:
    for seed in range(5):
        factors = half_doubled(Partition(0, parts, 0.0), seed)
        assert set(factors.tolist()) == {1.0, 2.0} and len(factors) == parts
        for size in (n for n in range(2, parts + 1) if parts % n == 0):
            assert all(len(set(run.tolist())) == 2 for run in factors.split(size))


def test_factors_reach_their_rows() -> None:
    factors = torch.tensor([1.0, 2.0])
    assert spread(factors, torch.ones(4, 3), 0).tolist() == [[1], [1], [2], [2]]
    assert spread(factors, torch.ones(3, 4, 2), 1).flatten().tolist() == [1, 1, 2, 2]
    assert spread(factors, torch.ones(4), 1).tolist() == [1, 1, 2, 2]
