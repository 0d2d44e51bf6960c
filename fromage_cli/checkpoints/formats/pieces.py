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

MOST_PAIRS = 500_000
"""Pairs of pieces that are compared, in a second: those that lie beside each other along the axis that is cut most."""


@dataclass(frozen=True)
class Box:
    """Some of a tensor's elements."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    find: Callable[[], StoredTensor] = field(compare=False)
    """Finds them where they are stored."""

    def overlaps(self, other: Box) -> bool:
        """Tell whether some elements belong to both."""
        sides = zip(self.offsets, self.sizes, other.offsets, other.sizes, strict=True)
        return all(begin < end + length and end < begin + size for begin, size, end, length in sides)


@dataclass(eq=False)
class PiecedTensor(StoredTensor):
    """A tensor whose elements lie in pieces."""

    boxes: Sequence[Box] = ()
    name: str = ""
    """What messages call it."""

    def check(self) -> PiecedTensor:
        """Return the tensor itself; raises InputError unless the pieces cover it, each element once."""
        boxes = [box for box in self.boxes if math.prod(box.sizes)]
        axis = max(range(self.dim()), key=lambda axis: len({box.offsets[axis] for box in boxes}), default=0)
        boxes.sort(key=lambda box: box.offsets[axis : axis + 1])
        if sum(math.prod(box.sizes) for box in boxes) != self.numel():
            raise self._damaged("its pieces together do not have its number of elements")
        open_boxes: list[Box] = []
        pairs = 0
        for box in boxes:
            if self.shape:
                begin = box.offsets[axis]
                open_boxes = [other for other in open_boxes if other.offsets[axis] + other.sizes[axis] > begin]
            if (pairs := pairs + len(open_boxes)) > MOST_PAIRS:
                raise self._damaged(f"it is cut into {len(boxes)} pieces, more than can be checked")
            if any(box.overlaps(other) for other in open_boxes):
                raise self._damaged("two of its pieces overlap")
            open_boxes.append(box)
        return self

    def read(self) -> torch.Tensor:
        """Read all pieces into one tensor, in the stored dtype."""
        if self.shape:
            return self._read_rows(0, self.shape[0])
        self.check()
        return self._piece(self.boxes[0]).read()

    def _read_rows(self, begin: int, end: int) -> torch.Tensor:
        """Read the pieces that hold elements of some rows, and of each piece only these rows."""
        import torch

        self.check()
        rows = torch.empty((end - begin, *self.shape[1:]), dtype=getattr(torch, self.dtype))
        for box in self.boxes:
            top = box.offsets[0]
            first, last = max(begin, top), min(end, top + box.sizes[0])
            if first < last:
                target = rows[first - begin : last - begin]
                for dimension in range(1, self.dim()):
                    target = target.narrow(dimension, box.offsets[dimension], box.sizes[dimension])
                target.copy_(self._piece(box).rows(first - top, last - top))
        return rows

    def _piece(self, box: Box) -> StoredTensor:
        """Return what is stored for a box; raises InputError unless it has the box's shape and the tensor's dtype."""
        piece = box.find()
        if piece.shape != box.sizes or piece.dtype != self.dtype:
            raise self._damaged(f"a piece of {list(box.sizes)} is {list(piece.shape)} {piece.dtype}")
        return piece

    def _damaged(self, reason: str) -> InputError:
        return InputError(
            f"{self.name} cannot be put together: {reason}.",
            hint="Shards of different saves were mixed, or the checkpoint is damaged. Copy it again.",
        )
