"""Gaussian tensors that are drawn again whenever they are needed, from a table and nearly at the speed of reading.

A part of a tensor is cos(a) u + sin(a) v, with u and v two stretches of the table at places, and a an angle, that the
seed decides. Each entry is standard normal and entries are uncorrelated over seeds; the idea of making normal numbers
by turning older ones is from Wallace, *Fast pseudorandom generators for normal and exponential variates*, ACM TOMS 22
(1996). A generator would take ten times as long, more than a tenth of a gradient at every step.
"""

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 1 << 16
"""Entries that are drawn at once: they stay in the cache."""
LARGEST_TABLE = 1 << 20
"""Entries of the table at most: 4 MB in float32."""


@dataclass(frozen=True)
class _Turn:
    """Which two stretches of the table make a part of a tensor, and how."""

    first: int
    second: int
    cosine: float
    sine: float


class GaussianTable:
    """Standard normal tensors by name, the same for one seed on every device and in every precision."""

    def __init__(self, seed: int, entries: int, like: Tensor) -> None:
        """`entries`: how many will be drawn in all; `like`: has the precision and the device of what is drawn."""
        self.seed = seed
        self.places = min(max(entries, PART), LARGEST_TABLE)
        self.table = torch.randn(self.places + PART, generator=_generator(f"{seed}")).to(like)
        self._turns: dict[str, list[_Turn]] = {}

    def draw(self, name: str, shape: torch.Size) -> Tensor:
        """The tensor of that name; a new one each time, with the same entries."""
        drawn = torch.empty(shape, dtype=self.table.dtype, device=self.table.device)
        parts = torch.split(drawn.view(-1), PART)
        if name not in self._turns:
            self._turns[name] = self._draw_turns(name, len(parts))
        for part, turn in zip(parts, self._turns[name], strict=True):
            length = part.numel()
            torch.mul(self.table[turn.first : turn.first + length], turn.cosine, out=part)
            part.add_(self.table[turn.second : turn.second + length], alpha=turn.sine)
        return drawn

    def _draw_turns(self, name: str, count: int) -> list[_Turn]:
        generator = _generator(f"{self.seed}/{name}")
        places = torch.randint(self.places, (count, 2), generator=generator).tolist()
        angles = (2.0 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)).tolist()
        return [
            _Turn(first, second, math.cos(angle), math.sin(angle))
            for (first, second), angle in zip(places, angles, strict=True)
        ]


def _generator(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))
