"""Stretches of one long sequence of normal numbers, without memory for all of it."""

import torch
from torch import Tensor

BLOCK = 1 << 20
"""Numbers that are drawn at once; a multiple of SIDE_BY_SIDE."""
SIDE_BY_SIDE = 16
"""Numbers that torch makes together: of blocks of so many it draws what it draws of the whole."""


class NormalNumbers:
    """What `torch.randn(total)` gives, in stretches that are asked for from the first to the last."""

    def __init__(self, generator: torch.Generator, total: int, like: Tensor) -> None:
        """`like`: has the precision and the device of what is given."""
        self.generator, self.left, self.like = generator, total, like
        self.begin, self.block = 0, torch.empty(0, dtype=like.dtype)

    def stretch(self, begin: int, end: int) -> Tensor:
        """Those from `begin` to before `end`, [end - begin]."""
        parts = []
        while begin < end:
            if begin >= self.begin + len(self.block):
                self._following()
                continue
            last = min(end, self.begin + len(self.block))
            parts.append(self.block[begin - self.begin : last - self.begin])
            begin = last
        return torch.cat([self.block[:0], *parts]).to(self.like.device)

    def finish(self) -> None:
        """Draws what is left, so that the generator goes on as it does after the whole."""
        while self.left:
            self._following()

    def _following(self) -> None:
        size = BLOCK if self.left >= BLOCK + SIDE_BY_SIDE else self.left
        self.begin, self.left = self.begin + len(self.block), self.left - size
        self.block = torch.randn(size, generator=self.generator, dtype=self.like.dtype)
