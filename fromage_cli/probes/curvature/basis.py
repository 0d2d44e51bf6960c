"""The basis of a Krylov space: vectors that a new one is made orthogonal to, with few passes over memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromage_cli.shards import added_up, is_sharded, own_part, spread_as
from fromage_cli.theory.accumulation import ACCELERATOR_CHUNK, CHUNK

SIDE_BY_SIDE = 8
"""Vectors in one matrix."""


class KrylovBasis:
    """Vectors side by side, so that their products with another one are those of a few matrices.

    Of vectors that are spread over ranks each keeps its own parts.
    """

    def __init__(self, like: Tensor) -> None:
        self.like, self.own, self.count = like, own_part(like), 0
        self.blocks: list[Tensor] = []  # [SIDE_BY_SIDE, n] each, filled one after the other
        self.chunk = CHUNK if like.device.type == "cpu" else ACCELERATOR_CHUNK

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        own = self._place(index)
        return spread_as(self.like, own) if is_sharded(self.like) else own

    def append(self, vector: Tensor) -> None:
        """Copies one more vector into the basis."""
        if self.count == SIDE_BY_SIDE * len(self.blocks):
            self.blocks.append(self.own.new_empty((SIDE_BY_SIDE, self.own.numel())))
        self.count += 1
        self._place(self.count - 1).copy_(own_part(vector))

    def coefficients(self, vector: Tensor) -> list[float]:
        """Takes the inner products with each of them: chunks in the vectors' own precision, summed in float64."""
        if not self.count:
            return []
        own = own_part(vector)
        pieces = [
            [block[:, start : start + self.chunk] @ own[start : start + self.chunk] for block in self._filled()]
            for start in range(0, max(own.numel(), 1), self.chunk)
        ]
        sums = torch.stack([torch.cat(piece) for piece in pieces]).double().sum(0)
        found: list[float] = added_up(sums, self.like).tolist()
        return found

    def subtract(self, vector: Tensor, coefficients: Sequence[float]) -> Tensor:
        """Subtracts each of them times its coefficient from the vector, in place."""
        own = own_part(vector)
        weights = torch.tensor(coefficients, dtype=own.dtype, device=own.device)
        for block, part in zip(self._filled(), torch.split(weights, SIDE_BY_SIDE), strict=False):
            own.addmv_(block[: len(part)].T, part, alpha=-1.0)
        return vector

    def _place(self, index: int) -> Tensor:
        """Where a vector lies."""
        return self.blocks[index // SIDE_BY_SIDE][index % SIDE_BY_SIDE]

    def _filled(self) -> list[Tensor]:
        """The blocks, as far as there are vectors in them, [<= SIDE_BY_SIDE, n]."""
        return [block[: self.count - index * SIDE_BY_SIDE] for index, block in enumerate(self.blocks)]
