"""In which parts a layer may be scaled: runs of rows of equal number along one of its first two dimensions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.problem.networks.layers import TrainableTensor

SCREEN = 0.3
"""Share of a chance cosine, 1/√(entries of a part), above which parts are no candidates; never below LEAST_SCREEN."""
LEAST_SCREEN = 1e-2


@dataclass(frozen=True)
class Partition:
    """Equal runs of rows along a dimension."""

    axis: int
    parts: int
    cosine: float
    """√Σ⟨g, W⟩² / √Σ‖g‖²‖W‖² over the parts."""


def candidates(tensors: Sequence[TrainableTensor], gradients: Mapping[str, Tensor]) -> Iterator[Partition]:
    """Yields partitions whose parts are orthogonal to their gradients: single rows first, then fewer and fewer parts.

    `tensors`: a layer, and the bias that is scaled with it; every number that divides the rows is tried.
    """
    layer = tensors[0].parameter
    for axis in range(min(2, layer.dim())):
        rows = layer.shape[axis]
        if any(tensor.parameter.dim() == 1 and tensor.parameter.shape[0] != rows for tensor in tensors):
            continue
        sums = torch.zeros(3, rows, dtype=torch.float64)  # of g·W, g² and W² over each row, all tensors together
        for tensor in tensors:
            along = min(axis, tensor.parameter.dim() - 1)
            weights, gradient = (
                data.movedim(along, 0).reshape(rows, -1) for data in (tensor.parameter.detach(), gradients[tensor.name])
            )
            pairs = ((gradient, weights), (gradient, gradient), (weights, weights))
            sums += torch.stack([torch.einsum("ri,ri->r", *pair).double().cpu() for pair in pairs])
        for parts in (count for count in range(rows, 1, -1) if rows % count == 0):
            product, gradient_square, weight_square = sums.reshape(3, parts, -1).sum(2)  # [parts] each
            cosine = float(product.norm() / (gradient_square * weight_square).sum().sqrt())
            if cosine < max(SCREEN * math.sqrt(parts / layer.numel()), LEAST_SCREEN):
                yield Partition(axis, parts, cosine)


def half_doubled(partition: Partition, seed: int) -> Tensor:
    """2 for one part, drawn at random, of each neighbouring two, else 1: (parts,).

    Every run of parts that is longer than one, and would be a coarser part, then holds both.
    """
    first = torch.randint(2, ((partition.parts + 1) // 2,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([first, 1 - first], 1).flatten()[: partition.parts] + 1.0


def spread(factors: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Factors for the parts as factors for the rows, shaped to multiply the weights or a bias."""
    axis = min(axis, weights.dim() - 1)
    rows = factors.to(weights).repeat_interleave(weights.shape[axis] // len(factors))
    return rows.reshape([-1 if place == axis else 1 for place in range(weights.dim())])
