"""Arrays and numbers of NumPy inside pickles, without NumPy.

Source: numpy/_core/src/multiarray, `array_reduce`, `arraydescr_reduce` and `array_scalar`.
"""

import struct
from dataclasses import dataclass
from typing import Any

from fromage_cli.checkpoints.pickles.machine import Constructor, Unusable
from fromage_cli.checkpoints.pickles.placeholders import Global
from fromage_cli.checkpoints.storage.stored_tensor import (
    FORMATS,
    StoredTensor,
    contiguous_strides,
    dense,
    inline,
    is_shape,
)

CODES = {
    **{"f8": "float64", "f4": "float32", "f2": "float16", "c16": "complex128", "c8": "complex64", "b1": "bool"},
    **{"i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8", "u8": "uint64", "u4": "uint32", "u2": "uint16"},
    "u1": "uint8",
}
"""NumPy's codes of the dtypes that tensors have."""


@dataclass(eq=False)
class ArrayDtype:
    """A dtype, whose byte order comes as its state."""

    code: str
    order: str = "<"

    def with_state(self, state: Any) -> None:
        """Take the byte order from (version, byte order, …)."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


@dataclass(eq=False)
class StoredArray:
    """An array; what it holds comes as its state."""

    tensor: StoredTensor | None = None

    def with_state(self, state: Any) -> None:
        """Take (version, shape, dtype, whether the first index moves fastest, bytes); objects are not read."""
        if isinstance(state, tuple) and len(state) == 5:
            self.tensor = _tensor(*state[1:])


def _tensor(shape: Any, dtype: Any, fortran: Any, stored: Any) -> StoredTensor | None:
    """Return an array of plain numbers as a tensor, None for any other."""
    if isinstance(stored, str):  # what Python 2 wrote, where it happens to read as text
        stored = stored.encode()
    known = isinstance(dtype, ArrayDtype) and dtype.code in CODES
    if not known or not isinstance(stored, bytes) or not is_shape(shape):
        return None
    name = CODES[dtype.code]
    strides = contiguous_strides(shape, bool(fortran))
    return dense(inline("array", name, stored, dtype.order == ">"), name, 0, shape, strides)


def _dtype(code: Any, *_rest: Any) -> ArrayDtype:
    """Return a dtype by its code, or by the class that stands for it."""
    if isinstance(code, Global):
        code = next((short for short, name in CODES.items() if name == code.name.rstrip("_")), "")
    if not isinstance(code, str):
        raise Unusable
    return ArrayDtype(code.lstrip("<>|="), ">" if code.startswith(">") else "<")


def _scalar(dtype: Any, stored: Any = b"") -> Any:
    """Return a single number, as Python's own."""
    name = CODES.get(dtype.code) if isinstance(dtype, ArrayDtype) else None
    if isinstance(stored, str):
        stored = stored.encode()
    if name not in FORMATS or not isinstance(stored, bytes):
        raise Unusable
    (value,) = struct.unpack((">" if dtype.order == ">" else "<") + FORMATS[name], stored)
    return value


NUMPY: dict[str, Constructor] = {
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_arguments: StoredArray() for core in ("core", "_core")},
    **{
        f"numpy.{core}.numeric._frombuffer": lambda stored, dtype, shape, order="C", *_rest: StoredArray(
            _tensor(shape, dtype, order == "F", stored)
        )
        for core in ("core", "_core")
    },
}
"""Constructors by dotted name."""
