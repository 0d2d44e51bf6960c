"""Gaussian tensors that are drawn again whenever they are needed, from a table and nearly at the speed of reading.

A part of a tensor is u + v or u - v. Both are stretches of a table of variance 1/2; the seed decides their places and
the sign. Each entry is standard normal and entries are uncorrelated over seeds; the idea of making them by turning
older ones is from Wallace, *Fast pseudorandom generators for normal and exponential variates*, ACM TOMS 22 (1996). A
generator would take ten times as long, more than a tenth of a gradient at every step.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_cli.shards import is_sharded, own_part, part_as

PART = 1 << 16
"""Entries that are drawn at once: they stay in the cache."""
LARGEST_TABLE = 1 << 20
"""Entries of the table at most: 4 MB in float32."""


@dataclass(frozen=True)
class _Turn:
    """Which two stretches of the table make a part of a tensor, and how."""

    first: Tensor
    second: Tensor
    sign: float


class RandomTensors:
    """Standard normal tensors by name, the same for one seed on every device and in every precision."""

    def __init__(self, seed: int, entries: int, like: Tensor) -> None:
        """`entries`: how many will be drawn in all; `like`: has the precision and the device of what is drawn."""
        self.seed = seed
        self.places = min(max(entries, PART), LARGEST_TABLE)
        table = torch.randn(self.places + PART, generator=_generator(f"{seed}")).mul_(math.sqrt(0.5))
        self.table = table.to(own_part(like.detach()))
        self._turns: dict[str, list[_Turn]] = {}

    def draw(self, name: str, shape: torch.Size) -> Tensor:
        """Draws the tensor of that name: a new one each time, with the same entries."""
        drawn = torch.empty(shape, dtype=self.table.dtype, device=self.table.device)
        for part, turn in zip(_parts(drawn), self._turns_of(name, shape), strict=True):
            torch.add(turn.first, turn.second, alpha=turn.sign, out=part)
        return drawn

    def draw_like(self, name: str, like: Tensor) -> Tensor:
        """Draws it in the shape of another tensor, and spread over ranks where that is."""
        return part_as(like, self.draw(name, like.shape))

    def add(self, name: str, origin: Tensor, factor: float, out: Tensor) -> None:
        """Writes origin + factor * the tensor of that name into `out`, part by part and without room for the tensor.

        `origin` has the shape of `out` and shares no memory with it.
        """
        if is_sharded(out) or not (origin.is_contiguous() and out.is_contiguous()):
            torch.add(origin, self.draw_like(name, out), alpha=factor, out=out)
            return
        for part, start, turn in zip(_parts(out), _parts(origin), self._turns_of(name, out.shape), strict=True):
            torch.add(turn.first, turn.second, alpha=turn.sign, out=part)
            torch.add(start, part, alpha=factor, out=part)

    def _turns_of(self, name: str, shape: torch.Size) -> list[_Turn]:
        """How each part of a tensor is made, drawn once from the seed and its name."""
        if name not in self._turns:
            generator = _generator(f"{self.seed}/{name}")
            lengths = [min(PART, shape.numel() - start) for start in range(0, shape.numel(), PART)] or [0]
            places = torch.randint(self.places, (len(lengths),), generator=generator).tolist()
            aside = torch.randint(1, self.places, (len(lengths),), generator=generator).tolist()  # never the same place
            signs = torch.randint(2, (len(lengths),), generator=generator).tolist()
            self._turns[name] = [
                _Turn(
                    self._stretch(place, length), self._stretch((place + far) % self.places, length), 2.0 * sign - 1.0
                )
                for place, far, sign, length in zip(places, aside, signs, lengths, strict=True)
            ]
        return self._turns[name]

    def _stretch(self, place: int, length: int) -> Tensor:
        return self.table[place : place + length]


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """The memory of a tensor in the pieces that are drawn at once."""
    flat = tensor.view(-1)
    return (flat,) if flat.numel() <= PART else torch.split(flat, PART)


def _generator(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))
