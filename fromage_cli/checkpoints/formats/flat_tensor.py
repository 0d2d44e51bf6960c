"""Tensors that were laid end to end in flat vectors, and those vectors cut into parts, as ZeRO does."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING

from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class FlatTensor(StoredTensor):
    """A tensor whose elements lie, in order, in stretches of vectors."""

    stretches: Callable[[], Iterable[StoredTensor]] = tuple
    """Finds them: of very many tensors over very many vectors they are not kept."""

    @property
    def in_order(self) -> bool:
        """Tell that the elements lie in order, as stretches do."""
        return True

    def read(self) -> torch.Tensor:
        """Read all stretches and give them the tensor's shape; InputError where they are of several dtypes."""
        import torch

        parts = [stretch.read() for stretch in self._alike()]
        flat = torch.cat(parts) if parts else torch.empty(0, dtype=getattr(torch, self.dtype))
        return flat[: self.numel()].reshape(self.shape)

    def _read_rows(self, begin: int, end: int) -> torch.Tensor:
        """Read some rows, and of each stretch no more than belongs to them."""
        width = math.prod(self.shape[1:])
        return FlatVector(tuple(self._alike())).tensor(begin * width, (end - begin, *self.shape[1:])).read()

    def verify(self) -> None:
        """Raise InputError when a stretch's bytes are not those that were written, as far as the format can tell."""
        for stretch in self.stretches():
            stretch.verify()

    def read_part(self, begin: int, view: memoryview) -> None:
        """Fill a buffer with the elements from `begin` on, little endian; InputError where `read` raises it."""
        for stretch in self._alike():
            count = max(0, min(stretch.numel() - begin, len(view) // self.width))
            stretch.read_part(begin, view[: count * self.width])
            begin, view = max(0, begin - stretch.numel()), view[count * self.width :]

    def _alike(self) -> list[StoredTensor]:
        """Return the stretches; raises InputError where they are of several dtypes or together too short."""
        stretches = list(self.stretches())
        others = sorted({stretch.dtype for stretch in stretches} - {self.dtype})
        count = sum(stretch.numel() for stretch in stretches)
        if others or count < self.numel():
            parts = ", ".join(others) or f"{count} elements, not {self.numel()}"
            raise InputError(
                f"A tensor of {self.dtype} has parts of {parts}.",
                hint="Files of different saves were mixed, or the checkpoint is damaged. Copy it again.",
            )
        return stretches


@dataclass(frozen=True)
class FlatVector:
    """Vectors in a row, seen as one."""

    parts: tuple[StoredTensor, ...]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Return where each vector ends, in elements."""
        return tuple(accumulate(part.numel() for part in self.parts))

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return self.ends[-1] if self.ends else 0

    def tensor(self, begin: int, shape: tuple[int, ...]) -> FlatTensor:
        """Return the tensor of that shape whose elements begin at `begin`."""
        return FlatTensor(self.parts[0].dtype, shape, stretches=partial(self.stretches, begin, math.prod(shape)))

    def stretches(self, begin: int, count: int) -> Iterator[StoredTensor]:
        """Yield the elements from `begin` on, `count` of them or as many as there are."""
        for index in range(bisect_right(self.ends, begin), len(self.parts)):
            part = self.parts[index]
            start = self.ends[index] - part.numel()
            if start >= begin + count:
                return
            first, last = max(begin - start, 0), min(begin + count - start, part.numel())
            if first < last:
                yield replace(part, shape=(last - first,), stride=(1,), offset=part.offset + first)


def is_vector(value: object) -> bool:
    """Tell whether a value is a vector of numbers that lie next to each other in a file."""
    return isinstance(value, StoredTensor) and value.dim() == 1 and value.contiguous and not value.peculiarity
