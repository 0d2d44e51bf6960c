"""A tensor that lies in a file: where its bytes are and how they are to be understood, until it is read."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeGuard

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.errors import InputError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

WIDTHS = {  # torch's name without "torch.": bytes per element
    **dict.fromkeys(("complex128",), 16),
    **dict.fromkeys(("float64", "complex64", "int64", "uint64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
}
ELEMENT_BYTES = {
    **WIDTHS,
    **dict.fromkeys(("qint8", "quint8", "quint4x2", "quint2x4", "float4_e2m1fn_x2"), 1),
    **{"qint32": 4, "complex32": 4},
}
"""By torch's name of the dtype, also of those that can be stored and are refused when they are read."""
FORMATS = {"float64": "d", "float32": "f", "float16": "e", "bool": "?", "int64": "q", "int32": "i", "int16": "h"} | {
    **{"int8": "b", "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B"}
}
"""Codes of the module struct, by dtype."""
MOST_DIMENSIONS = 64
"""As many as NumPy allows."""
COUNT_LIMIT = 2**63
"""No count of elements or bytes reaches this: torch counts in 64 bits, one of them the sign."""
MOST_EXPANDED = 16_000_000
"""Bytes up to which an expanded view, whose elements share memory, is written out: a mask or a table, not an attack."""


class OutsideStorage(Exception):
    """A tensor's shape, strides and offset do not lie within its storage."""


@dataclass(eq=False)
class Storage:
    """Bytes in which tensors lie; tensors that share one are views of the same memory."""

    key: str
    """What the file calls it."""
    dtype: str
    """Of its elements; `uint8` where it has none of its own."""
    size: int
    """In bytes."""
    read_into: Callable[[int, memoryview], None]
    """Fill a buffer from a position, in bytes from the storage's first; InputError when the file does not have them."""
    big_endian: bool = False
    root: object = None
    """The memory that it is a part of, and where; its own where None."""
    begin: int = 0
    verify: Callable[[], None] = lambda: None
    """Raises InputError when the bytes are not those that were written, as far as the format can tell."""
    compressed: bool = False
    """Whether all of it has to be read for a part of it."""


@dataclass(eq=False)
class StoredTensor:
    """A tensor as a file describes it."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    offset: int = 0
    """In elements, from the beginning of the storage."""
    storage: Storage | None = None
    peculiarity: str = ""
    """Why it cannot be read as a dense tensor: `quantised`, `sparse` …"""

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def width(self) -> int:
        """Return bytes per element."""
        return ELEMENT_BYTES[self.dtype]

    @property
    def span(self) -> tuple[int, int]:
        """Return the bytes of the storage from its first to its last element."""
        if not self.numel():
            return 0, 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return self.offset * self.width, (self.offset + last + 1) * self.width

    @property
    def reach(self) -> int:
        """Return the bytes from its first to its last element, which are read for it; 0 where it has no storage."""
        begin, end = self.span if self.storage is not None else (0, 0)
        return end - begin

    @property
    def contiguous(self) -> bool:
        """Tell whether the elements lie one after another, in order."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def place(self) -> object:
        """Return what is equal for tensors that are one and the same memory, seen the same way."""
        storage = self.storage
        if storage is None or not self.numel():
            return self
        root = storage if storage.root is None else storage.root
        return id(root), storage.begin + self.span[0], self.dtype, self.shape, self.stride

    @property
    def in_order(self) -> bool:
        """Tell whether the elements lie in order, so that some of them can be read without the others."""
        storage = self.storage
        return storage is not None and not storage.compressed and not self.peculiarity and self.contiguous

    def check(self) -> StoredTensor:
        """Return the tensor itself; raises OutsideStorage where it does not lie within its storage."""
        if not are_whole_numbers((*self.shape, *self.stride, self.offset)):
            raise OutsideStorage(
                f"the shape {brief(self.shape)}, strides {brief(self.stride)} or offset {brief(self.offset)}"
            )
        if len(self.shape) != len(self.stride) or not is_shape(self.shape):
            raise OutsideStorage(f"the shape {brief(self.shape)} with {len(self.stride)} strides")
        if self.storage is None or self.dtype not in ELEMENT_BYTES:
            raise OutsideStorage(f"the dtype {brief(self.dtype)}")
        if (end := self.span[1]) > self.storage.size:
            raise OutsideStorage(f"{end} bytes of a storage of {self.storage.size}")
        return self

    def read(self) -> torch.Tensor:
        """Read it into contiguous memory of its own, in the stored dtype and this machine's byte order."""
        import torch

        storage = self._dense_storage()
        begin, end = self.span
        if self.numel() * self.width > max(MOST_EXPANDED, 2 * storage.size):
            raise InputError(
                f"A tensor of {self.numel()} elements was expanded from {end - begin} bytes.",
                hint="Save the tensor before it is expanded.",
            )
        buffer = torch.empty(end - begin, dtype=torch.uint8)
        if end > begin:
            storage.read_into(begin, buffer.numpy().data)
        if storage.big_endian != (sys.byteorder == "big"):
            _turn(buffer.numpy(), self.dtype)
        flat = buffer.view(getattr(torch, self.dtype))
        if self.contiguous:
            return flat.reshape(self.shape)
        return flat.as_strided(self.shape, self.stride).clone(memory_format=torch.contiguous_format)

    def rows(self, begin: int, end: int) -> torch.Tensor:
        """Read rows `begin` to `end` − 1 into contiguous memory of their own, as `read` does; no rows read nothing.

        Rows count along the first dimension. Raises ValueError for rows that it does not have; a scalar has none.
        """
        import torch

        if not self.shape or not 0 <= begin <= end <= self.shape[0]:
            raise ValueError(f"A tensor of shape {list(self.shape)} has no rows {begin} to {end}.")
        shape = (end - begin, *self.shape[1:])
        return self._read_rows(begin, end) if math.prod(shape) else torch.empty(shape, dtype=getattr(torch, self.dtype))

    def _read_rows(self, begin: int, end: int) -> torch.Tensor:
        """Read some rows, which hold elements, and of the storage no more than lies between their elements."""
        self._dense_storage()
        return replace(self, shape=(end - begin, *self.shape[1:]), offset=self.offset + begin * self.stride[0]).read()

    def _dense_storage(self) -> Storage:
        """Return the storage; raises InputError where the elements do not lie in one, each by itself."""
        if self.storage is None or self.peculiarity:
            raise InputError(f"A tensor is {self.peculiarity}; expected a dense tensor.")
        return self.storage

    def verify(self) -> None:
        """Raise InputError when the bytes are not those that were written, as far as the format can tell."""
        if self.storage is not None:
            self.storage.verify()

    def read_part(self, begin: int, view: memoryview) -> None:
        """Fill a buffer with the elements from `begin` on, little endian; for a tensor whose elements are in order.

        Raises InputError when the file is not what it was.
        """
        if self.storage is not None and view:
            self.storage.read_into((self.offset + begin) * self.width, view)
            if self.storage.big_endian:
                import numpy

                _turn(numpy.frombuffer(view, numpy.uint8), self.dtype)

    def item(self) -> Any:
        """Return the number in a tensor of one element, mostly without torch."""
        code = "f" if self.dtype == "bfloat16" else FORMATS.get(self.dtype)
        if code is None or self.storage is None or self.peculiarity or self.numel() != 1:
            return self.read().item()
        stored = bytearray(self.width)
        self.read_part(0, memoryview(stored))
        upper_half = b"\0\0" if self.dtype == "bfloat16" else b""  # of a float32
        return struct.unpack(f"<{code}", upper_half + stored)[0]


@dataclass(eq=False)
class WholeTensor(StoredTensor):
    """A tensor that its format's reader has to make whole."""

    make: Callable[[], torch.Tensor] = field(kw_only=True)

    def read(self) -> torch.Tensor:
        """Return what the reader makes."""
        return self.make()

    def _read_rows(self, begin: int, end: int) -> torch.Tensor:
        """Copy some rows of what the reader makes, so that the rest is not held."""
        return self.make()[begin:end].clone()


def _turn(stored: NDArray[Any], dtype: str) -> None:
    """Reverse the bytes of every number in place; `stored`: (bytes,) uint8."""
    width = ELEMENT_BYTES[dtype] // (2 if dtype.startswith("complex") else 1)
    stored.view(f"u{width}").byteswap(inplace=True)


def are_whole_numbers(value: object) -> TypeGuard[Sequence[int]]:
    """Tell whether a value from a file is a list of counts: none negative, each of 63 bits at most."""
    return isinstance(value, list | tuple) and all(
        type(number) is int and 0 <= number < COUNT_LIMIT for number in value
    )


def is_shape(value: object) -> TypeGuard[Sequence[int]]:
    """Tell whether a value from a file is a tensor's shape: few counts, whose product is one of 63 bits."""
    few = isinstance(value, list | tuple) and len(value) <= MOST_DIMENSIONS
    return few and are_whole_numbers(value) and math.prod(size for size in value if size) < COUNT_LIMIT


def contiguous_strides(shape: Sequence[int], fortran: bool = False) -> tuple[int, ...]:
    """Return the strides, in elements, of a tensor whose last index moves fastest, or the first as in Fortran."""
    if fortran:
        return contiguous_strides(shape[::-1])[::-1]
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def stored_number(value: Any) -> Any:
    """Return the number in a tensor of one integer, and any other value as it is."""
    whole = isinstance(value, StoredTensor) and value.numel() == 1 and "int" in value.dtype and not value.peculiarity
    return int(value.item()) if whole else value


def dense(storage: object, dtype: str, offset: object, shape: object, stride: object) -> StoredTensor:
    """Return a tensor within a storage; TypeError for other kinds of values, OutsideStorage for what does not fit."""
    if not isinstance(storage, Storage) or not isinstance(shape, Sequence) or not isinstance(stride, Sequence):
        raise TypeError("no storage, shape and strides")
    if type(offset) is not int:
        raise TypeError("no offset")
    return StoredTensor(dtype, tuple(shape), tuple(stride), offset, storage).check()


def contiguous_tensor(dtype: str, shape: Sequence[int], read_into: Callable[[int, memoryview], None]) -> StoredTensor:
    """Return a tensor whose elements lie one after another in memory of its own."""
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    return StoredTensor(dtype, tuple(shape), contiguous_strides(shape), 0, Storage("", dtype, size, read_into)).check()


def inline(key: str, dtype: str, stored: bytes, big_endian: bool = False) -> Storage:
    """Return a storage whose bytes are in memory already."""

    def read_into(begin: int, view: memoryview) -> None:
        view[:] = stored[begin : begin + len(view)]

    return Storage(key, dtype, len(stored), read_into, big_endian)
