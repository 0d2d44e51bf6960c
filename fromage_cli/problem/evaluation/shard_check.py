"""A small network on the ranks at hand: whether products of sharded weights are those of whole ones, here and now."""

from copy import deepcopy

import torch
from torch import nn

from fromage_cli import ranks
from fromage_cli.errors import ResourceError
from fromage_cli.problem.evaluation.curvature_operators import along
from fromage_cli.problem.networks.gathering import gather_in_forward
from fromage_cli.problem.networks.sharding import spread
from fromage_cli.shards import part_as, whole

WITHIN = 1e-10
"""The relative gap in float64 that rounding may leave."""


def require_right_products(device: torch.device) -> None:
    """Compare one Hessian-vector product of a network of 44 weights, sharded and whole, a row of data for each rank.

    Raises ResourceError where they differ: this torch, or what its ranks talk through, cannot be relied on.
    """
    found, generator = ranks.current(), torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).to(device, torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    vectors = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(device) for p in model.parameters()]
    rows = torch.randn(found.count, 3, generator=generator, dtype=torch.float64).to(device)
    expected = _product(model, rows, vectors)
    sharded = deepcopy(model)
    spread(sharded, device)
    parts = [part_as(parameter, vector) for parameter, vector in zip(sharded.parameters(), vectors, strict=True)]
    with gather_in_forward(sharded).left_out_of_graphs():
        product = [whole(part) for part in _product(sharded, rows[found.index :][:1], parts)]
    gap = max(float((one - other).abs().max()) for one, other in zip(product, expected, strict=True))
    size = max(float(other.abs().max()) for other in expected)
    if not gap <= WITHIN * size:
        raise ResourceError(
            f"A Hessian-vector product of sharded weights is wrong on these ranks, by {gap / size:.1e} of it.",
            "Compute without --shard. This version of torch, or its backend, adds up wrongly.",
        )


def _product(model: nn.Module, rows: torch.Tensor, vectors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The Hessian of the sum over rows of the squared outputs, times a vector."""
    weights = list(model.parameters())
    gradients = torch.autograd.grad(model(rows).square().sum(), weights, create_graph=True)
    return list(torch.autograd.grad(along(gradients, vectors), weights))
