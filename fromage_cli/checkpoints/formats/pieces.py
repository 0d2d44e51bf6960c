"""A tensor put together from pieces that lie in several files: boxes of its elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Box:
    """Some of a tensor's elements."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    read: Callable[[], torch.Tensor] = field(compare=False)


@dataclass(eq=False)
class PiecedTensor(StoredTensor):
    """A tensor whose elements lie in pieces."""

    boxes: Sequence[Box] = ()
    name: str = ""
    """What messages call it."""

    def check(self) -> PiecedTensor:
        """The tensor itself; raises InputError unless the pieces cover it, each element once."""
        boxes = sorted((box for box in self.boxes if math.prod(box.sizes)), key=lambda box: box.offsets)
        if sum(math.prod(box.sizes) for box in boxes) != self.numel():
            raise self._damaged("its pieces do not have as many elements as it has")
        open_boxes: list[Box] = []
        for box in boxes:
            if self.shape:
                open_boxes = [other for other in open_boxes if other.offsets[0] + other.sizes[0] > box.offsets[0]]
            if any(_overlap(box, other) for other in open_boxes):
                raise self._damaged("two of its pieces overlap")
            open_boxes.append(box)
        return self

    def read(self) -> torch.Tensor:
        """Read all pieces into one tensor, in the stored dtype."""
        import torch

        self.check()
        whole = torch.empty(self.shape, dtype=getattr(torch, self.dtype))
        for box in self.boxes:
            piece = box.read()
            if tuple(piece.shape) != box.sizes or piece.dtype != whole.dtype:
                raise self._damaged(f"a piece of {list(box.sizes)} is {list(piece.shape)} {piece.dtype}")
            target = whole
            for dimension, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
                target = target.narrow(dimension, offset, size)
            target.copy_(piece)
        return whole

    def _damaged(self, reason: str) -> InputError:
        return InputError(
            f"{self.name} cannot be put together: {reason}.",
            hint="Shards of different saves were mixed, or it is damaged; copy it again.",
        )


def _overlap(first: Box, second: Box) -> bool:
    return all(
        begin < other_begin + other_size and other_begin < begin + size
        for begin, size, other_begin, other_size in zip(
            first.offsets, first.sizes, second.offsets, second.sizes, strict=True
        )
    )
